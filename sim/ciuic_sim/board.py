"""A board without a board: processors' view of addresses and memory, the overlay as compiled RTL.

    with Board("pynq-z2") as board:
        board.program(binary)              # words of a bitstream of `ciuic_sim.bitstream`
        board.read32(0x4000_0000)          # the overlay's first register

What a program on the board reaches: 32-bit registers, contiguous memory, programming the logic, and
an interrupt. The overlay runs in a thread of its own while it has work, as on a board. Front ends:
`ciuic_sim.pynq_device` for `pynq` in the same process, `ciuic_sim.pynq_server` for PYNQ.remote.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
from ciuic_host.memory import MIB, DeviceMemory
from ciuic_host.transport import Buffer
from ciuic_host.uri import Report, no_report

from ciuic.abi import ADDRESS_MAPS, registers
from ciuic.errors import CiuicError, DeviceError, OutOfMemory, OverlayMismatch, UsageError

from .bitstream import Contents
from .board_registers import PROCESSING_SYSTEMS, InterruptController, StoredRegisters
from .overlay_build import overlay_library
from .settings import MemorySettings
from .simulation import Simulation

logger = logging.getLogger(__name__)

SLICE_CYCLES = 1000  # for which a register access waits at most
CMA_BYTES = 256 * MIB


@dataclass
class Faults:
    """What is broken on a board; nothing at first.

    Parameters
    ----------
    interrupt_cut
        The wire from the overlay to the interrupt controller is.
    doorbell_cut
        What is written to the overlay's doorbell does not reach it.
    memory_refused
        No memory is given out.
    """

    interrupt_cut: bool = False
    doorbell_cut: bool = False
    memory_refused: bool = False


class Board:
    """A simulated board. Its methods may be called from any thread.

    Parameters
    ----------
    name
        Of `ciuic.abi.ADDRESS_MAPS`.
    memory_bytes
        Contiguous memory for buffers.
    settings
        How the memory behaves.
    library
        A compiled simulation, in place of the one of the bitstream's configuration.
    report
        Called with (what, steps done, steps in all) while an overlay is compiled.

    Attributes
    ----------
    faults
        What is broken.
    on_interrupt
        Called, from a thread of the board, whenever the processors' interrupt is high and something
        may have changed; must return at once and not access the board.
    """

    def __init__(
        self,
        name: str,
        *,
        memory_bytes: int = CMA_BYTES,
        settings: MemorySettings | None = None,
        library: Path | None = None,
        report: Report = no_report,
    ) -> None:
        if name not in ADDRESS_MAPS:
            raise UsageError(f"board must be one of {sorted(ADDRESS_MAPS)}, not {name!r}")
        self.name = name
        self.addresses = ADDRESS_MAPS[name]
        self.faults = Faults()
        self.on_interrupt: Callable[[], None] = lambda: None
        self.loaded: Contents | None = None
        self._settings = settings or MemorySettings()
        self._library = library
        self._report = report
        self._memory = DeviceMemory(name, capacity=memory_bytes, shadow=False)
        self._buffers: dict[int, Buffer] = {}
        self._controller = InterruptController()
        self._regions, values = PROCESSING_SYSTEMS[self.addresses.family]
        self._system = StoredRegisters(values)
        self._simulation: Simulation | None = None
        self._working = False  # whether the overlay may get on without being accessed
        self._broken: CiuicError | None = None  # what ended the clock
        self._wanted = False  # whether an access waits for the clock
        self._closed = False
        self._gate = threading.Lock()
        self._turn = threading.Condition()
        self._clock = threading.Thread(target=self._run, name=f"board {name}", daemon=True)
        self._clock.start()

    # --- programming --------------------------------------------------------------------------

    def program(self, data: bytes) -> None:
        """Program the logic with the words of a bitstream, as the processors load them.

        Raises
        ------
        OverlayMismatch
            If the bitstream is for another part.
        """
        contents = Contents.of_binary(data)
        if self.addresses.die not in contents.part:
            raise OverlayMismatch("part", expected=self.addresses.die, found=contents.part)
        # May take a minute.
        library = self._library or overlay_library(contents.config, self._report)
        with self._access():
            if self._simulation is not None:
                self._simulation.close()
            self._simulation = Simulation(self.name, library, self._settings)
            for buffer in self._buffers.values():
                self._simulation.map(buffer.device_address, self._memory.pages(buffer))
            self._controller = InterruptController()
            self.loaded, self._broken, self._working = contents, None, False
        logger.info("%s: programmed with %s", self.name, contents.config.name)

    @property
    def cycles(self) -> int:
        """Clock cycles of the overlay since it was programmed."""
        with self._access():
            return self._overlay().cycles

    # --- registers ----------------------------------------------------------------------------

    def read32(self, address: int) -> int:
        """Return the 32-bit register at an address."""
        with self._access():
            control, controller = self.addresses.control, self.addresses.interrupt_controller
            if control.holds(address):
                return self._read_overlay(address - control.base)
            if controller.holds(address):
                self._overlay()  # it is in the logic too
                return self._controller.read(address - controller.base)
            self._check_system(address)
            return self._system.read(address)

    def write32(self, address: int, value: int) -> None:
        """Write the 32-bit register at an address."""
        with self._access():
            control, controller = self.addresses.control, self.addresses.interrupt_controller
            if control.holds(address):
                self._write_overlay(address - control.base, value)
            elif controller.holds(address):
                self._overlay()
                self._controller.write(address - controller.base, value)
            else:
                self._check_system(address)
                self._system.write(address, value)
            self._signal()

    @property
    def interrupt(self) -> bool:
        """Whether the processors' interrupt is high."""
        with self._access():
            return self._controller.output

    # --- memory -------------------------------------------------------------------------------

    @property
    def memory_bytes(self) -> int:
        """Contiguous memory for buffers."""
        return self._memory.capacity

    @property
    def used(self) -> int:
        """Bytes of it that buffers take."""
        return self._memory.used

    def allocate(self, nbytes: int) -> Buffer:
        """Return contiguous memory, whose array is what the overlay sees."""
        with self._access():
            if self.faults.memory_refused:
                raise OutOfMemory(self.name, wanted=nbytes, available=0, capacity=self.memory_bytes)
            buffer = self._memory.allocate(nbytes)
            self._buffers[buffer.device_address] = buffer
            if self._simulation is not None:
                self._simulation.map(buffer.device_address, self._memory.pages(buffer))
            return buffer

    def free(self, buffer: Buffer) -> None:
        """Give memory back; a board that is switched off has none."""
        with self._access():
            if self._closed:
                return
            self._memory.free(buffer)
            del self._buffers[buffer.device_address]
            if self._simulation is not None:
                self._simulation.unmap(buffer.device_address)

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return the bytes [address, address + nbytes) of a buffer, as the overlay sees them."""
        return self._memory.view(address, nbytes)

    def close(self) -> None:
        """Switch the board off; a second call does nothing."""
        if self._closed:
            return
        with self._access():
            self._closed = True
        self._clock.join()
        if self._simulation is not None:
            self._simulation.close()
        self._memory.clear()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # --- the overlay and its clock ------------------------------------------------------------

    @contextmanager
    def _access(self) -> Iterator[None]:
        """Stop the clock between two cycles."""
        with self._gate:
            self._wanted = True
            with self._turn:
                self._wanted = False
                yield
                self._turn.notify()

    def _run(self) -> None:
        """Let the overlay work while it has work and nobody wants to access it."""
        with self._turn:
            while not self._closed:
                if self._wanted or not self._working:
                    self._turn.wait()
                    continue
                try:
                    self._advance()
                except CiuicError as error:
                    self._broken, self._working = error, False

    def _advance(self) -> None:
        overlay = self._overlay()
        overlay.run(SLICE_CYCLES)
        fields = registers.STATUS.decode(overlay.read(registers.STATUS.offset))
        # Time stands still while the interrupt is high, until somebody looks.
        self._working = bool(fields["busy"] or fields["resetting"]) and not overlay.interrupt
        self._signal()

    def _signal(self) -> None:
        high = self._simulation is not None and self._simulation.interrupt
        self._controller.input = high and not self.faults.interrupt_cut
        if self._controller.output:
            self.on_interrupt()

    def _overlay(self) -> Simulation:
        if self._broken is not None:
            raise self._broken
        if self._simulation is None:
            raise DeviceError(f"{self.name}: the logic must be programmed before it is accessed")
        return self._simulation

    def _read_overlay(self, offset: int) -> int:
        value = self._overlay().read(offset)
        if offset == registers.ABI_VERSION.offset and self.loaded is not None:
            return self.loaded.abi_version
        return value

    def _write_overlay(self, offset: int, value: int) -> None:
        overlay = self._overlay()
        if not (self.faults.doorbell_cut and offset == registers.DOORBELL.offset):
            overlay.write(offset, value)
            self._working = True

    def _check_system(self, address: int) -> None:
        if not any(region.holds(address) for region in self._regions):
            raise DeviceError(f"{self.name}: address {address:#x} must be that of a register")
