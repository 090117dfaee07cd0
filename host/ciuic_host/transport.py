"""The seam below the driver: how register accesses and bytes reach one overlay.

Rules of a transport:

1. ``read`` and ``write`` are 32-bit accesses at a byte offset of `ciuic.abi.registers`.
2. A buffer belongs to the CPU or to the device. ``flush`` hands bytes that the CPU wrote to the
   device, ``invalidate`` makes bytes that the device wrote visible to the CPU. Only then may the
   other side touch them.
3. ``wait_interrupt`` returns whether the interrupt line was raised within the time given.
4. After ``close`` nothing else may be called.
5. One thread may flush a buffer while another does all the rest with other buffers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .memory_timing import MemoryTiming  # which reads names of devices

PAGE_BYTES = 4096  # buffers start on a page: AXI bursts never cross one


@dataclass(frozen=True)
class Buffer:
    """Memory that both sides can reach: ``array`` is the CPU's view (uint8, nbytes)."""

    device_address: int
    array: npt.NDArray[np.uint8]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.array.nbytes


class Transport(ABC):
    """How one overlay is reached."""

    name: str
    emulated: bool
    memory_bytes: int  # that buffers may take together
    late_seconds: float = 0.0  # by which a paced emulation was slower than the board
    timing: MemoryTiming | None = None  # of the memory, where it is known
    link_bytes_per_second: float | None = None  # of flushes, where it is known
    clock_hz: float | None = None  # of the overlay, where it is not that of its configuration

    @abstractmethod
    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""

    @abstractmethod
    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page; raise `OutOfMemory` if there is no room."""

    @abstractmethod
    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""

    @abstractmethod
    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop) that the CPU wrote to the device."""

    @abstractmethod
    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop) that the device wrote visible to the CPU."""

    @abstractmethod
    def wait_interrupt(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until the interrupt line is high; return whether it is."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; a second call does nothing."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
