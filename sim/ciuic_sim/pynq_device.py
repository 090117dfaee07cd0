"""A simulated board as a device of the `pynq` package, in this process.

`pynq.Overlay`, `MMIO`, `allocate`, `Clocks`, `Interrupt` and drivers are `pynq`'s own; only the
device below them is not. For notebooks and programs written for a board:

    from ciuic_sim.pynq_device import simulated_board

    with simulated_board("pynq-z2", "tiny") as bitstream:  # pynq's active device from here on
        overlay, _ = ciuic_host.pynq.load_overlay("board", bitstream, pynq.Device.active_device)
        print(overlay.ciuic.register_map.MAGIC)

and with Ciuic's driver ``ciuic_host.open("fpga:pynq-sim?config=tiny")``. Needs `pynq`, see
``make test-pynq``. Each buffer has the CPU's bytes and the board's, and only flush and invalidate
carry them over, so that a program which forgets one fails here and not now and then on a board.
"""

from __future__ import annotations

import asyncio
import ctypes
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ciuic_host.bitfile import WORD_BYTES
from ciuic_host.pynq import use_device
from ciuic_host.pynq_design import metadata
from ciuic_host.transport import Buffer
from ciuic_host.uri import Report, no_report
from pynq.buffer import PynqBuffer
from pynq.interrupt import _InterruptController
from pynq.pl_server.device import Device

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.errors import CiuicError

from .bitstream import write_bitstream
from .board import Board
from .pynq_names import LINUX_MACHINES, PYNQ_NAMES


@contextmanager
def simulated_board(
    name: str = "pynq-z2", config: OverlayConfig | str | None = None, *, report: Report = no_report
) -> Iterator[Path]:
    """Let a simulated board be `pynq`'s active device; give the path of a bitstream for it.

    Parameters
    ----------
    name
        Of the board, in `ciuic.abi.ADDRESS_MAPS`.
    config
        Of the overlay in the bitstream, or its name in `ciuic.abi.CONFIGS`; the board's if omitted.
    report
        Called with (what, steps done, steps in all) while the overlay is compiled.
    """
    found = config if isinstance(config, OverlayConfig) else CONFIGS[config or name]
    with (
        Board(name, report=report) as board,
        tempfile.TemporaryDirectory(prefix="ciuic-board-") as folder,
    ):
        use_device(SimulatedDevice(board))
        yield write_bitstream(Path(folder), name, found)


class SimulatedDevice(Device):
    """A simulated board, to be named in code: probing finds no such device.

    Parameters
    ----------
    board
        What it stands for; closed by whoever opened it.
    """

    _probe_priority_ = 900
    simulated = True

    @classmethod
    def _probe_(cls) -> list[Device]:
        return []

    def __init__(self, board: Board) -> None:
        super().__init__(f"simulated {board.name}")
        self.board = board
        self.name = PYNQ_NAMES[board.name]
        self.arch = LINUX_MACHINES[board.addresses.family]
        self.capabilities = {"REGISTER_RW": True, "MEMORY_MAPPED": False}
        self.default_memory = SimulatedMemory(self)

    def get_memory(self, _description: Any) -> SimulatedMemory:
        """Return the memory of the processors; a board of Ciuic has no other."""
        return self.default_memory

    # --- bitstreams ---------------------------------------------------------------------------

    def get_bitfile_metadata(self, bitfile_name: str, partial: bool = False) -> Any:
        """Return what the handoff file beside a bitstream says, read anew each time."""
        assert not partial, "an overlay of Ciuic is never part of another"
        return metadata(Path(bitfile_name))

    def download(self, bitstream: Any, parser: Any = None) -> None:
        """Program the board."""
        parser = parser or self.get_bitfile_metadata(bitstream.bitfile_name)
        self.board.program(parser.bin_data)
        for controller in parser.interrupt_controllers.values():
            if controller["parent"] == "":
                number = controller["raw_irq"]
                _InterruptController._uio_devices[number] = SimulatedInterrupt(self.board)
        self.post_download(bitstream, parser, self.name)

    def gen_cache(self, _bitstream: Any, _parser: Any = None) -> None:
        """Write nothing: pynq's cache is one file for all boards of a machine."""

    def shutdown(self) -> None:
        """Nothing to prepare before the board is programmed."""

    # --- registers and memory -----------------------------------------------------------------

    def read_registers(self, address: int, length: int) -> bytes:
        """Return the registers [address, address + length)."""
        addresses = range(address, address + length, WORD_BYTES)
        return b"".join(self.board.read32(one).to_bytes(WORD_BYTES, "little") for one in addresses)

    def write_registers(self, address: int, data: bytes) -> None:
        """Write registers from an address on."""
        for start in range(0, len(data), WORD_BYTES):
            word = data[start : start + WORD_BYTES]
            self.board.write32(address + start, int.from_bytes(word, "little"))

    def flush(self, bo: Buffer, offset: int, virtual_address: int, nbytes: int) -> None:
        """Carry the CPU's bytes of a buffer to the board."""
        bo.array[offset : offset + nbytes] = _bytes_at(virtual_address, nbytes)

    def invalidate(self, bo: Buffer, offset: int, virtual_address: int, nbytes: int) -> None:
        """Carry the board's bytes of a buffer to the CPU."""
        _bytes_at(virtual_address, nbytes)[:] = bo.array[offset : offset + nbytes]


class SimulatedMemory:
    """Contiguous memory of a simulated board.

    Parameters
    ----------
    device
        The board as a device.
    """

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    def allocate(self, shape: Any, dtype: Any, **_options: Any) -> ShadowedBuffer:
        """Return a buffer; what it says on the board and here is not the same until a flush."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        board = self._device.board
        try:
            memory = board.allocate(nbytes)
        except CiuicError as error:
            raise RuntimeError(f"Allocate failed: {error}") from error  # as XRT's memory does
        buffer = ShadowedBuffer(
            shape, dtype, device=self._device, device_address=memory.device_address, bo=memory
        )
        buffer.give_back = lambda: board.free(memory)
        return buffer


class ShadowedBuffer(PynqBuffer):
    """The CPU's bytes of a buffer; ``bo`` is the board's. Views of it own nothing."""

    give_back: Callable[[], None] | None = None

    def freebuffer(self) -> None:
        """Give the board's memory back."""
        if self.give_back is not None:
            give_back, self.give_back = self.give_back, None
            give_back()


class SimulatedInterrupt:
    """The processors' interrupt, in place of `pynq`'s reader of a UIO file.

    Parameters
    ----------
    board
        Whose interrupt.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        self._events: list[Any] = []
        self._loop: asyncio.AbstractEventLoop | None = None
        board.on_interrupt = self._raised

    def add_event(self, event: Any, _number: int) -> None:
        """Let an event be set at the next interrupt, or at once if there is one."""
        self._loop = asyncio.get_running_loop()
        self._events.append(event)
        if self._board.interrupt:
            self._loop.call_soon(self._set)

    def _raised(self) -> None:
        if self._events and self._loop is not None:
            self._loop.call_soon_threadsafe(self._set)

    def _set(self) -> None:
        events, self._events = self._events, []
        for event in events:
            event.set()


def _bytes_at(virtual_address: int, nbytes: int) -> npt.NDArray[np.uint8]:
    return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(virtual_address))
