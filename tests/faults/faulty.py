"""Devices that fail on purpose: an overlay behind a transport with faults, and a GPU in name.

Nothing is patched: `FaultyTransport` is a transport, and what its overlay answers is what the
driver has to cope with on a board.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ciuic_host.device import FpgaDevice
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.overlay import Overlay
from ciuic_host.transport import Buffer, Transport

from ciuic.abi import CONFIGS, DESCRIPTOR, registers
from ciuic.devices import Device
from ciuic.errors import OutOfMemory

TIMEOUT_SECONDS = 0.02  # of a dead overlay: what a minute is to a real one
NOWHERE = (1 << 32) - (1 << 20)  # an address outside of the memory, aligned
MEMORY_BYTES = 1 << 22


class Fault(Enum):
    """What can go wrong."""

    TIMEOUT = "timeout"  # the overlay does not answer any more
    BUS_ERROR = "bus error"  # a descriptor reads where there is no memory
    OUT_OF_MEMORY = "out of memory"  # somebody else has taken it
    REMOVED = "removed"  # the operating system knows it no more


@dataclass
class Schedule:
    """When a device fails: at its ``at``-th doorbell, if it comes to so many; None: never."""

    fault: Fault | None = None
    at: int = 0
    doorbells: int = 0
    happened: bool = False

    def due(self) -> bool:
        """Count a doorbell; return whether the fault happens now."""
        self.doorbells += 1
        if self.fault is None or self.doorbells != self.at:
            return False
        self.happened = True
        return True


class FaultyTransport(Transport):
    """An emulated overlay that fails as it is told to.

    Parameters
    ----------
    name
        The device's name.
    schedule
        When and how.

    Attributes
    ----------
    buffers
        Allocated and not freed.
    out_of_memory
        Called when memory is to run out.
    """

    emulated = True

    def __init__(self, name: str, schedule: Schedule) -> None:
        self.name = name
        self.schedule = schedule
        self.buffers = 0
        self.closed = False
        self.out_of_memory: Callable[[], None] = lambda: None
        self._inner = EmulatedTransport(name, CONFIGS["sim"], capacity=MEMORY_BYTES)
        self.memory_bytes = self._inner.memory_bytes
        self.timing = self._inner.timing
        self._dead = self._removed = self._full = False
        self._rings: dict[int, int] = {}
        self._entries = 1

    def read(self, offset: int) -> int:
        """Return a register."""
        self._check()
        return self._inner.read(offset)

    def write(self, offset: int, value: int) -> None:
        """Write a register; a doorbell may set off the fault."""
        self._check()
        if offset == registers.RING_LOG2.offset:
            self._entries = 1 << value
        self._rings[offset] = value
        if offset == registers.DOORBELL.offset:
            if self.schedule.due():
                self._fail(value)
            if self._dead:
                return
        self._inner.write(offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        """Return a buffer, or none if memory has run out."""
        self._check()
        if self._full:
            raise OutOfMemory(self.name, wanted=nbytes, available=0, capacity=self.memory_bytes)
        self.buffers += 1
        return self._inner.allocate(nbytes)

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back; of a device that is gone, too."""
        self.buffers -= 1
        self._inner.free(buffer)

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand bytes to the device."""
        self._check()
        self._inner.flush(buffer, start, stop)

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make bytes visible to the CPU."""
        self._check()
        self._inner.invalidate(buffer, start, stop)

    def wait_interrupt(self, seconds: float) -> bool:
        """Return whether the interrupt line is high."""
        self._check()
        return self._inner.wait_interrupt(seconds)

    def close(self) -> None:
        """Release everything."""
        self.closed = True
        self._inner.close()

    def _check(self) -> None:
        if self._removed:
            raise OSError(19, "No such device")

    def _fail(self, doorbell: int) -> None:
        fault = self.schedule.fault
        if fault is Fault.TIMEOUT:
            self._dead = True
        elif fault is Fault.REMOVED:
            self._removed = True
            self._check()
        elif fault is Fault.OUT_OF_MEMORY:
            self._full = True
            self.out_of_memory()
        else:
            self._spoil((doorbell - 1) % self._entries)

    def _spoil(self, slot: int) -> None:
        """Let a descriptor read its first operand from nowhere."""
        base = self._rings[registers.BY_NAME["RING_BASE_LO"].offset] + slot * DESCRIPTOR.nbytes
        view = self._inner._memory.view(base, DESCRIPTOR.nbytes)
        fields = DESCRIPTOR.unpack(view.tobytes())
        view[:] = memoryview(DESCRIPTOR.pack(**{**fields, "a_addr": NOWHERE}))


def open_faulty(uri: str, schedule: Schedule) -> tuple[FpgaDevice, FaultyTransport]:
    """Return an FPGA that fails as it is told to, and its transport."""
    transport = FaultyTransport(uri, schedule)
    device = FpgaDevice(uri, Overlay(transport, timeout=TIMEOUT_SECONDS))
    transport.out_of_memory = lambda: _fill(device)
    return device, transport


def _fill(device: Device) -> None:
    """Leave a device no byte."""
    device.capacity_bytes = 0
