"""The overlay's RTL as a device: compiled by Verilator, with a memory model in C++."""

from __future__ import annotations

import ctypes
import logging
import time
from pathlib import Path

from ciuic_host.memory import MIB, DeviceMemory
from ciuic_host.transport import PAGE_BYTES, Buffer, Transport
from ciuic_host.uri import Options, Report, no_report

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.errors import DeviceError, DeviceTimeout

from .overlay_build import overlay_library
from .settings import MemorySettings

logger = logging.getLogger(__name__)

CYCLES_PER_SLICE = 100_000  # between two looks at the clock and at Ctrl-C


class ProtocolError(DeviceError):
    """The overlay broke a rule of the AXI bus: a fault of the gateware."""


def open_transport(options: Options) -> Transport:
    """Open the simulated overlay; it is built first if this gateware never was.

    Options: ``config``, ``memory`` (MiB), ``shadow`` (0 or 1), and those of `MemorySettings`.
    """
    config = CONFIGS[options.text("config", "sim", CONFIGS)]
    capacity = options.integer("memory", 1024, 1, 3072) * MIB
    shadow = options.flag("shadow", False)
    settings = MemorySettings.from_options(options)
    options.check_all_known()
    return RtlTransport(
        options.uri,
        config,
        capacity=capacity,
        shadow=shadow,
        settings=settings,
        report=options.report,
    )


class RtlTransport(Transport):
    """A simulated overlay.

    Parameters
    ----------
    name
        The device's name.
    config
        What to build.
    capacity
        Bytes of its memory.
    shadow
        Whether bytes reach the other side only by flush and invalidate.
    settings
        How its memory behaves.
    library
        A compiled simulation, in place of the one of the overlay with this configuration.
    report
        Called with (what, steps done, steps in all) while the overlay is built.

    Raises
    ------
    ToolMissing
        If a program that the build needs is not installed.
    """

    emulated = True

    def __init__(
        self,
        name: str,
        config: OverlayConfig,
        *,
        capacity: int = 1024 * MIB,
        shadow: bool = False,
        settings: MemorySettings | None = None,
        library: Path | None = None,
        report: Report = no_report,
    ) -> None:
        self.name = name
        self.config = config
        self._library = _load(library or overlay_library(config, report))
        self.memory_bytes = capacity
        self._memory = DeviceMemory(name, capacity=capacity, shadow=shadow)
        structure = (settings or MemorySettings()).structure()
        self._handle: int | None = self._library.sim_open(ctypes.byref(structure))

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return int(self._library.sim_cycles(self._open()))

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""
        value = ctypes.c_uint32()
        self._check(self._library.sim_read(self._open(), offset, ctypes.byref(value)), offset)
        return value.value

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        self._check(self._library.sim_write(self._open(), offset, value), offset)

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        handle = self._open()
        buffer = self._memory.allocate(nbytes)
        base = buffer.device_address
        size = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        pointer = self._memory.view(base, size).ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        self._library.sim_map(handle, base, size, pointer)
        return buffer

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        self._memory.free(buffer)
        self._library.sim_unmap(self._open(), buffer.device_address)

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop) that the CPU wrote to the device."""
        self._memory.flush(buffer, start, stop)

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop) that the device wrote visible to the CPU."""
        self._memory.invalidate(buffer, start, stop)

    def wait_interrupt(self, seconds: float) -> bool:
        """Simulate until the interrupt line is high, for at most ``seconds`` of the CPU's time."""
        deadline = time.monotonic() + seconds
        while not self._library.sim_interrupt(self._open()):
            self._library.sim_run(self._open(), CYCLES_PER_SLICE)
            self._check_rules()
            if time.monotonic() >= deadline:
                break
        return bool(self._library.sim_interrupt(self._open()))

    def refuse(self, start: int, stop: int) -> None:
        """Let the memory answer accesses to [start, stop) with an error; an empty range ends it."""
        self._library.sim_refuse(self._open(), start, stop)

    def run(self, cycles: int) -> None:
        """Simulate a number of cycles, or until the interrupt line is high."""
        self._library.sim_run(self._open(), cycles)
        self._check_rules()

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        if self._handle is not None:
            self._library.sim_close(self._handle)
            self._handle = None
            self._memory.clear()

    def _open(self) -> int:
        if self._handle is None:
            raise DeviceError(f"{self.name} must be open, but it was closed")
        return self._handle

    def _check(self, answered: int, offset: int) -> None:
        self._check_rules()
        if not answered:
            raise DeviceTimeout(
                f"answer of the register at {offset:#x}", seconds=0, status={"cycles": self.cycles}
            )

    def _check_rules(self) -> None:
        violation = self._library.sim_violation(self._open())
        if violation:
            raise ProtocolError(
                f"{self.name}: {violation.decode()} in cycle {self.cycles}: "
                "the gateware broke a rule of the AXI bus"
            )


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    handle, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, result, arguments in (
        ("sim_open", handle, [ctypes.c_void_p]),
        ("sim_close", None, [handle]),
        ("sim_read", ctypes.c_int, [handle, word, ctypes.c_void_p]),
        ("sim_write", ctypes.c_int, [handle, word, word]),
        ("sim_run", long, [handle, long]),
        ("sim_interrupt", ctypes.c_int, [handle]),
        ("sim_cycles", long, [handle]),
        ("sim_violation", ctypes.c_char_p, [handle]),
        ("sim_map", None, [handle, long, long, ctypes.c_void_p]),
        ("sim_unmap", None, [handle, long]),
        ("sim_refuse", None, [handle, long, long]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
