"""The overlay on a PYNQ board, by way of the `pynq` package: on the board, or from a laptop.

``fpga:pynq`` is this board, ``fpga:pynq@192.0.2.7`` one whose PYNQ.remote server is reached there.
The bitstream is a ``.bit`` with its ``.hwh`` beside it; before the board is programmed both are
compared with the board and with this package. Needs pynq 3.0 to 4.0 on the board, 4.0 elsewhere,
and nothing of Ciuic but `ciuic` and this package. One board at a time in a process, as `pynq` knows
one active device; a second one takes the interrupts of the first, unless that has ``poll=1``.

What `pynq` gets wrong is mended here, and nowhere else: the clock of a Zynq-7000 (its frequency is
None in release 4.0), what it keeps of the first device of a process, and that a bitstream is sent
to a board only if none of its name is there, so that names must carry a hash of the contents.
"""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ciuic.abi import registers
from ciuic.errors import (
    CiuicError,
    DeviceError,
    DeviceNotFound,
    DeviceTimeout,
    ToolMissing,
    UsageError,
)

from .memory import MIB
from .pynq_design import Design, check_design
from .pynq_interrupt import InterruptLine, Polling, forget_interrupts
from .pynq_memory import CachedMemory, RemoteMemory
from .transport import Buffer, Transport
from .uri import Options

if TYPE_CHECKING:
    from .pynq_remote import Deadline

SIMULATED = "/proc/device-tree/chosen/ciuic_simulated"  # a file that no board has
LATE_SECONDS = 0.5  # within which an interrupt arrives that the overlay has raised
CLOCK_TOLERANCE = 0.01
INSTALL = "pip install 'ciuic[pynq]'"


def open_transport(options: Options) -> Transport:
    """Program a board and open its overlay.

    Options: ``bitstream`` (path of a ``.bit``), ``clock`` (MHz, at most what the bitstream was
    built for, which is the default), ``memory`` (MiB of buffers, by default what the board has
    free) and ``poll`` (1: ask registers instead of waiting for interrupts).
    """
    address = options.address()
    bitstream = options.path("bitstream")
    clock_mhz = options.integer("clock", 0, 0, 1000)
    memory = options.integer("memory", 0, 0, 1 << 20)
    poll = options.flag("poll", address is not None)
    options.check_all_known()
    if bitstream is None:
        raise UsageError(f"{options.uri}: bitstream must be the path of a .bit with its .hwh")
    if address is not None and not poll:
        raise UsageError(f"{options.uri}: poll must be 1, as PYNQ.remote has no interrupts")
    device, deadline = _device(options.uri, address)
    return PynqTransport(
        options.uri,
        bitstream,
        device,
        memory_bytes=memory * MIB or None,
        clock_mhz=clock_mhz or None,
        poll=poll,
        deadline=deadline,
    )


def require_pynq(needed_for: str) -> None:
    """Raise `ToolMissing` if there is no `pynq`."""
    if importlib.util.find_spec("pynq") is None:
        raise ToolMissing("pynq", needed_for=needed_for, install=INSTALL)


def use_device(device: Any) -> None:
    """Let a device be the one that `pynq` means, whose clocks and interrupts it knows."""
    import pynq

    pynq.Device.active_device = device
    if "_real_instance" in vars(pynq.Clocks):  # of the first device of this process
        del pynq.Clocks._real_instance
    forget_interrupts()


def _device(uri: str, address: str | None) -> tuple[Any, Deadline | None]:
    require_pynq(uri)
    import pynq

    if address is not None:
        from .pynq_remote import connect

        return connect(uri, address)
    devices = pynq.Device.devices
    if not devices:
        raise DeviceNotFound(uri, "this must be a PYNQ board, and pynq finds no FPGA here")
    return devices[0], None


class PynqTransport(Transport):
    """A programmed board.

    Parameters
    ----------
    name
        The device's name.
    bitstream
        A ``.bit``, its ``.hwh`` beside it.
    device
        The `pynq` device.
    memory_bytes
        That buffers may take together; what the board has free if omitted.
    clock_mhz
        Clock of the overlay; what it was built for if omitted.
    poll
        Whether registers are asked again and again instead of waiting for interrupts.
    deadline
        Of the calls to a board somewhere else.
    on_close
        What to do once the transport is closed, or could not be opened.

    Attributes
    ----------
    clock_mhz
        The overlay's clock, as the board's registers say.

    Raises
    ------
    OverlayMismatch
        If the bitstream is for another board, or its overlay not one that this package knows.
    DeviceError
        If the board cannot be programmed.
    """

    def __init__(
        self,
        name: str,
        bitstream: Path,
        device: Any,
        *,
        memory_bytes: int | None = None,
        clock_mhz: float | None = None,
        poll: bool = False,
        deadline: Deadline | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self._device = device
        self._deadline = deadline
        self._on_close = on_close
        self._closed = False
        self._lost = False  # the connection is
        self._ring_base: int | None = None
        try:
            with self._told("it was programmed"):
                self.emulated = _is_simulated(device, remote=deadline is not None)
                self.memory_bytes = memory_bytes or _free_bytes(name, device, deadline)
                self._memory = (
                    RemoteMemory(name, device, self.memory_bytes, deadline)
                    if deadline
                    else CachedMemory(name, device, self.memory_bytes)
                )
                self._program(bitstream, clock_mhz, poll)
        except BaseException:
            self._release()
            raise

    def _program(self, bitstream: Path, clock_mhz: float | None, poll: bool) -> None:
        import pynq

        use_device(self._device)
        self._overlay, design = load_overlay(self.name, bitstream, self._device)
        self.clock_mhz = _set_clock(self.name, design, clock_mhz)
        self._mmio = pynq.MMIO(design.base, design.span, device=self._device)
        self._interrupt = Polling() if poll else InterruptLine(design.interrupt)

    # --- registers ----------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""
        with self._told("a register was read"):
            self._check_loaded()
            return int(self._mmio.read(offset))

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        with self._told("a register was written"):
            self._check_loaded()
            self._memory.settle()
            self._mmio.write(offset, int(value))
        if offset == registers.RING_BASE_LO.offset:
            self._ring_base = value

    # --- memory -------------------------------------------------------------------------------

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        with self._told("memory was allocated"):
            self._check_present()
            return self._memory.allocate(nbytes)

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back; its array must not be touched any more."""
        if self._lost:  # a server that still runs keeps it; PYNQ.remote has no sessions
            self._memory.forget(buffer)
            return
        with self._told("memory was freed"):
            self._memory.free(buffer)

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop) that the CPU wrote to the device."""
        with self._told("bytes were sent"):
            self._memory.flush(buffer, start, buffer.nbytes if stop is None else stop)

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop) that the device wrote visible to the CPU."""
        with self._told("bytes were fetched"):
            self._memory.invalidate(buffer, start, buffer.nbytes if stop is None else stop)

    # --- the interrupt ------------------------------------------------------------------------

    def wait_interrupt(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until the interrupt line is high; return whether it is.

        Raises
        ------
        DeviceTimeout
            If the overlay has raised it and it does not arrive.
        DeviceError
            If the overlay is not there any more.
        """
        deadline = time.monotonic() + seconds
        self._interrupt.begin()
        while not self._raised():
            left = deadline - time.monotonic()
            if left <= 0:
                self._check_present()
                return False
            self._wait(min(left, LATE_SECONDS))
        return True

    def _wait(self, seconds: float) -> None:
        with self._told("an interrupt was waited for"):
            began = time.monotonic()
            if self._interrupt.wait(seconds) or not self._interrupt.arrives:
                return
            self._check_present()
            if self._raised() and not self._interrupt.wait(LATE_SECONDS):
                raise DeviceTimeout(
                    f"interrupt of {self.name}, which the overlay has raised,",
                    seconds=round(time.monotonic() - began, 3),
                    status={
                        register.name: self.read(register.offset)
                        for register in (registers.INTERRUPT_STATUS, registers.INTERRUPT_ENABLE)
                    },
                )

    def _raised(self) -> bool:
        raised = self.read(registers.INTERRUPT_STATUS.offset)
        return bool(raised and raised & self.read(registers.INTERRUPT_ENABLE.offset))

    # --- whether it is still there ------------------------------------------------------------

    def _check_loaded(self) -> None:
        """Raise an error if this process has loaded another overlay."""
        if not self._overlay.is_loaded():
            raise DeviceError(
                f"{self.name}: overlay {Path(self._overlay.bitfile_name).name} must be loaded, but "
                "another one was loaded in its place"
            )

    def _check_present(self) -> None:
        """Raise an error if somebody else has programmed the board since."""
        magic = self.read(registers.MAGIC.offset)
        if magic != registers.MAGIC_VALUE:
            raise DeviceError(
                f"{self.name}: overlay must answer with {registers.MAGIC_VALUE:#x}, not "
                f"{magic:#x}: the board was programmed with something else"
            )
        if self._ring_base is None:
            return
        base = self.read(registers.RING_BASE_LO.offset)
        if base != self._ring_base:
            raise DeviceError(
                f"{self.name}: the overlay's ring must be at {self._ring_base:#x}, not {base:#x}: "
                "the board was programmed again, or another program drives it"
            )

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """Turn what `pynq` and its connection raise into errors of Ciuic."""
        if self._lost:
            raise DeviceError(f"{self.name}: connection to the board was lost before {doing}")
        try:
            yield
        except CiuicError:
            raise
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise DeviceError(
                f"{self.name}: pynq failed while {doing}: {type(error).__name__}: {error}"
            ) from error
        except Exception as error:
            if self._deadline is None:
                raise
            from .pynq_remote import failure

            told = failure(self.name, doing, error, self._deadline.seconds)
            if told is None:
                raise
            self._lost = True
            raise told from error

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        if not self._closed:
            self._release()

    def _release(self) -> None:
        self._closed = True
        try:
            memory = getattr(self, "_memory", None)  # None if the board did not even answer
            if memory is not None:
                if self._lost:
                    memory.abandon()
                else:
                    with self._told("memory was freed"):
                        memory.clear()
        finally:
            if self._deadline is not None:
                from .pynq_remote import disconnect

                disconnect(self._device)
            self._on_close()


def load_overlay(name: str, bitstream: Path, device: Any) -> tuple[Any, Design]:
    """Program a board; return the `pynq.Overlay` and where Ciuic's overlay is in it.

    Parameters
    ----------
    name
        Of the device, for errors.
    bitstream
        A ``.bit``, its ``.hwh`` beside it.
    device
        The `pynq` device, such as ``pynq.Device.active_device``.

    Raises
    ------
    UsageError
        If there is no such bitstream, or no handoff file beside it.
    OverlayMismatch
        If the bitstream is for another board, or its overlay not one that this package knows.
    """
    import pynq

    for path in (bitstream, bitstream.with_suffix(".hwh")):
        if not path.is_file():
            raise UsageError(f"{name}: {path} must be a file")
    with warnings.catch_warnings():
        # pynq warns of an IP whose version `pynq_driver` is not for; its ABI is checked below.
        warnings.filterwarnings("ignore", "IP .* and driver found for", UserWarning)
        overlay = pynq.Overlay(str(bitstream.resolve()), download=False, device=device)
    design = check_design(name, bitstream, overlay, device)
    _mend_clocks(overlay)
    overlay.download()
    return overlay, design


def _is_simulated(device: Any, *, remote: bool) -> bool:
    if remote:
        return bool(device.exists_file(SIMULATED).exists)
    return bool(getattr(device, "simulated", False))


def _free_bytes(name: str, device: Any, deadline: Deadline | None) -> int:
    """Return the contiguous memory that a board has free."""
    if deadline is None:
        text = Path("/proc/meminfo").read_text()
    else:
        text = device.read_file("/proc/meminfo").decode()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "CmaFree":
            return int(value.split()[0]) * 1024
    raise DeviceError(
        f"{name}: the board must say how much contiguous memory is free (CmaFree of "
        "/proc/meminfo); where it does not, name it: memory=MIB"
    )


# --- clocks -----------------------------------------------------------------------------------


def _mend_clocks(overlay: Any) -> None:
    """Put in the frequencies that `pynq` does not find: it looks for UltraScale+ names only."""
    system = overlay.ip_dict[overlay.parser.ps_name]["parameters"]
    for index, clock in overlay.clock_dict.items():
        if clock.get("enable") and "frequency" in clock and clock["frequency"] is None:
            clock["frequency"] = float(system[f"PCW_ACT_FPGA{index}_PERIPHERAL_FREQMHZ"])


def _set_clock(name: str, design: Design, wanted: float | None) -> float:
    """Set the overlay's clock; return what the board's registers say of it, in MHz."""
    from pynq import Clocks

    if wanted is None:
        wanted = design.clock_mhz
    elif wanted > design.clock_mhz * (1 + CLOCK_TOLERANCE):
        raise UsageError(
            f"{name}: clock must be at most the {design.clock_mhz:g} MHz that the bitstream was "
            f"built for, not {wanted:g}"
        )
    Clocks.fclk0_mhz = float(wanted)
    found = float(Clocks.fclk0_mhz)
    if abs(found - wanted) > CLOCK_TOLERANCE * wanted:
        raise DeviceError(f"{name}: clock must be {wanted:g} MHz, but the board gives {found:g}")
    return found
