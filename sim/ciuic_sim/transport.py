"""The overlay's RTL as a device: compiled by Verilator, with a memory model in C++."""

from __future__ import annotations

import time
from pathlib import Path

from ciuic_host.memory import MIB, DeviceMemory
from ciuic_host.transport import Buffer, Transport
from ciuic_host.uri import Options, Report, no_report

from ciuic.abi import CONFIGS, OverlayConfig

from .overlay_build import overlay_library
from .settings import MemorySettings
from .simulation import Simulation

CYCLES_PER_SLICE = 100_000  # between two looks at the clock and at Ctrl-C


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
        path = library or overlay_library(config, report)
        self._simulation = Simulation(name, path, settings or MemorySettings())
        self.memory_bytes = capacity
        self._memory = DeviceMemory(name, capacity=capacity, shadow=shadow)

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return self._simulation.cycles

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""
        return self._simulation.read(offset)

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        self._simulation.write(offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        buffer = self._memory.allocate(nbytes)
        self._simulation.map(buffer.device_address, self._memory.pages(buffer))
        return buffer

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        self._memory.free(buffer)
        self._simulation.unmap(buffer.device_address)

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop) that the CPU wrote to the device."""
        self._memory.flush(buffer, start, stop)

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop) that the device wrote visible to the CPU."""
        self._memory.invalidate(buffer, start, stop)

    def wait_interrupt(self, seconds: float) -> bool:
        """Simulate until the interrupt line is high, for at most ``seconds`` of the CPU's time."""
        deadline = time.monotonic() + seconds
        while not self._simulation.interrupt:
            self._simulation.run(CYCLES_PER_SLICE)
            if time.monotonic() >= deadline:
                break
        return self._simulation.interrupt

    def refuse(self, start: int, stop: int) -> None:
        """Let the memory answer accesses to [start, stop) with an error; an empty range ends it."""
        self._simulation.refuse(start, stop)

    def run(self, cycles: int) -> None:
        """Simulate a number of cycles, or until the interrupt line is high."""
        self._simulation.run(cycles)

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self._simulation.close()
        self._memory.clear()
