"""The command queue: descriptors in, completion records out, and what to do when one fails.

Does not know what a descriptor computes. One `Rings` drives one overlay from one thread.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ciuic.abi import COMPLETION, DESCRIPTOR, Opcode, Status, registers
from ciuic.abi.descriptors import STATUS_REASON
from ciuic.abi.registers import Register
from ciuic.errors import DescriptorError, DeviceTimeout

from .completion import Completion
from .transport import Buffer, Transport

logger = logging.getLogger(__name__)

RING_LOG2 = 8
RESET_SECONDS = 5.0
WATCHDOG_CYCLES = 1_000_000
WRAP = 1 << 32  # DOORBELL and COMPLETED count modulo this
INTERRUPTS = {"done": 1, "error": 1}
ABANDONED = "it was given up because the overlay was reset before it completed"


@dataclass(frozen=True)
class Ticket:
    """Descriptors that were submitted together: numbers [start, stop) since a reset.

    ``rung`` is when, in seconds on the clock of ``time.perf_counter``.
    """

    epoch: int
    start: int
    stop: int
    rung: float = 0.0


class Rings:
    """The descriptor ring and the completion ring of one overlay.

    Parameters
    ----------
    transport
        How the overlay is reached.
    ring_log2
        Entries of the rings, as a power of two.
    """

    def __init__(self, transport: Transport, *, ring_log2: int = RING_LOG2) -> None:
        self._transport = transport
        self._log2 = ring_log2
        self.entries = 1 << ring_log2
        self._descriptors = transport.allocate(self.entries * DESCRIPTOR.nbytes)
        self._completions = transport.allocate(self.entries * COMPLETION.nbytes)
        self._epoch = 0
        self._opcodes: deque[int] = deque()  # of the descriptors that are not collected
        self._collected = 0
        self._records: dict[tuple[int, int], Completion] = {}  # by epoch and number
        self.reset()

    @property
    def submitted(self) -> int:
        """Descriptors submitted since the last reset."""
        return self._collected + len(self._opcodes)

    def reset(self) -> None:
        """Reset the overlay and give it empty rings; descriptors in flight are given up."""
        self._stop()
        self._epoch += 1
        self._opcodes.clear()
        self._collected = 0
        # A record counts if it has the number of its descriptor, so those of before must go.
        self._completions.array[:] = 0
        self._transport.flush(self._completions)
        self._write_address("RING_BASE", self._descriptors)
        self._write_address("COMPLETION_BASE", self._completions)
        self._write(registers.RING_LOG2, log2=self._log2)
        self._transport.write(registers.WATCHDOG.offset, WATCHDOG_CYCLES)
        self._write(registers.INTERRUPT_STATUS, **INTERRUPTS)
        self._write(registers.INTERRUPT_ENABLE, **INTERRUPTS)
        self._write(registers.CONTROL, enable=1)

    def submit(self, descriptors: Sequence[bytes], seconds: float) -> Ticket:
        """Start descriptors; wait at most ``seconds`` without progress while the ring is full."""
        start, rung = self.submitted, time.perf_counter()
        for first in range(0, len(descriptors), self.entries):
            part = descriptors[first : first + self.entries]
            excess = len(self._opcodes) + len(part) - self.entries
            if excess > 0:
                self._collect(self._collected + excess, seconds)
            self._enqueue(part)
        return Ticket(self._epoch, start, self.submitted, rung)

    def wait(self, ticket: Ticket, seconds: float) -> list[Completion]:
        """Return the records of a ticket, once; wait at most ``seconds`` without progress.

        Raises
        ------
        DescriptorError
            If a descriptor failed; the overlay has been reset and can be used again.
        DeviceTimeout
            If the overlay made no progress; it is left as it is.
        """
        if ticket.epoch == self._epoch:
            self._collect(ticket.stop, seconds)
        keys = [(ticket.epoch, index) for index in range(ticket.start, ticket.stop)]
        for key in keys:
            if key not in self._records:
                pending = Status.PENDING.name
                raise DescriptorError(pending, opcode="any", index=key[1], reason=ABANDONED)
        return [self._records.pop(key) for key in keys]

    def status_fields(self) -> dict[str, object]:
        """Return STATUS and the counts of the queue by name."""
        fields = self._status()
        code = fields.pop("code")
        return {
            **fields,
            "code": _name(Status, code),
            "submitted": self.submitted,
            "completed": self._transport.read(registers.COMPLETED.offset),
        }

    def close(self) -> None:
        """Stop the overlay and give the rings back, even if it does not stop."""
        try:
            self._stop()
        finally:
            self._transport.free(self._descriptors)
            self._transport.free(self._completions)

    def _stop(self) -> None:
        self._write(registers.CONTROL, reset=1)
        deadline = time.monotonic() + RESET_SECONDS
        while self._status()["resetting"]:
            if time.monotonic() > deadline:
                raise DeviceTimeout(
                    "end of a reset", seconds=RESET_SECONDS, status=self.status_fields()
                )

    def _enqueue(self, descriptors: Sequence[bytes]) -> None:
        for descriptor in descriptors:
            start = self.submitted % self.entries * DESCRIPTOR.nbytes
            stop = start + DESCRIPTOR.nbytes
            self._descriptors.array[start:stop] = memoryview(descriptor)
            self._transport.flush(self._descriptors, start, stop)
            self._opcodes.append(DESCRIPTOR.unpack(descriptor)["opcode"])
        self._transport.write(registers.DOORBELL.offset, self.submitted % WRAP)

    def _collect(self, stop: int, seconds: float) -> None:
        """Take the records up to descriptor number ``stop``."""
        progress: object = None
        deadline = 0.0
        while True:
            # Cleared before it is looked at what has completed, so that no interrupt is missed.
            self._write(registers.INTERRUPT_STATUS, **INTERRUPTS)
            halted = self._status()["halted"]
            seen = self._progress()
            self._take(seen[0])
            if self._collected >= stop:
                return
            if halted:
                self._fail()
            now = time.monotonic()
            if seen != progress:
                progress, deadline = seen, now + seconds
            elif now >= deadline:
                raise DeviceTimeout(
                    "completion of a descriptor", seconds=seconds, status=self.status_fields()
                )
            self._transport.wait_interrupt(deadline - now)

    def _progress(self) -> tuple[int, int, int]:
        """Descriptors completed since the reset, and beats: what moves while the overlay works."""
        completed, beats_read, beats_written = (
            self._transport.read(register.offset)
            for register in (
                registers.COMPLETED,
                registers.counter("beats_read")[0],
                registers.counter("beats_written")[0],
            )
        )
        ahead = (completed - self._collected) % WRAP
        return self._collected + ahead, beats_read, beats_written

    def _take(self, completed: int) -> None:
        while self._collected < completed and self._opcodes:
            record = self._record()
            if record.status is not Status.OK or record.index != self._collected % WRAP:
                return
            self._records[self._epoch, self._collected] = record
            self._collected += 1
            self._opcodes.popleft()

    def _record(self) -> Completion:
        start = self._collected % self.entries * COMPLETION.nbytes
        stop = start + COMPLETION.nbytes
        self._transport.invalidate(self._completions, start, stop)
        return Completion.unpack(self._completions.array[start:stop].tobytes(), self._opcodes[0])

    def _fail(self) -> None:
        """Reset the overlay and raise what stopped it."""
        code = Status(self._status()["code"])
        index, opcode = self._collected, _name(Opcode, self._opcodes[0])
        logger.warning("descriptor %d (%s) ended with %s", index, opcode, code.name)
        self.reset()
        raise DescriptorError(code.name, opcode=opcode, index=index, reason=STATUS_REASON[code])

    def _status(self) -> dict[str, int]:
        return registers.STATUS.decode(self._transport.read(registers.STATUS.offset))

    def _write(self, register: Register, **values: int) -> None:
        self._transport.write(register.offset, register.encode(**values))

    def _write_address(self, name: str, buffer: Buffer) -> None:
        for suffix, shift in (("LO", 0), ("HI", 32)):
            register = registers.BY_NAME[f"{name}_{suffix}"]
            self._transport.write(register.offset, buffer.device_address >> shift & WRAP - 1)


def _name(kind: type[IntEnum], value: int) -> str:
    try:
        return kind(value).name
    except ValueError:
        return str(value)
