"""What a device has done: tasks, seconds and bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

TRANSFERS = ("upload", "download")
WAIT = "wait"  # of the host for a device; only `Device.watchers` are told


class Span(NamedTuple):
    """What hardware says it did within a task, on the host's axis of time.

    Attributes
    ----------
    name
        Such as the opcode of a descriptor.
    start
        Seconds on the clock of ``time.perf_counter``.
    seconds
    facts
        What else the hardware said, by name.
    """

    name: str
    start: float
    seconds: float
    facts: dict[str, int]


class TaskRecord(NamedTuple):
    """One task or transfer that a device has done.

    Attributes
    ----------
    device : str
        URI.
    op : str
        Operator, or one of `TRANSFERS`.
    inputs : tuple
        Shapes of the inputs.
    attributes : dict
        The task's attributes.
    start : float
        Seconds on the clock of ``time.perf_counter``.
    seconds : float
    nbytes : int
        Bytes that crossed between host and device; 0 for tasks.
    used_bytes : int or None
        Bytes that the device's arrays took when it ended, if known.
    spans : tuple of Span
        What the hardware did for it, if it says.
    """

    device: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    attributes: dict[str, Any]
    start: float
    seconds: float
    nbytes: int
    used_bytes: int | None = None
    spans: tuple[Span, ...] = ()


Observer = Callable[[TaskRecord], None]


@contextmanager
def watched(device: str, watchers: Sequence[Observer]) -> Iterator[None]:
    """Tell watchers, if there are any, how long the host waits for a device here."""
    if not watchers:
        yield
        return
    start = time.perf_counter()
    try:
        yield
    finally:
        waited = TaskRecord(device, WAIT, (), {}, start, time.perf_counter() - start, 0)
        for watcher in tuple(watchers):
            watcher(waited)


@dataclass
class OpCount:
    """Tasks of one operator and the seconds they took."""

    tasks: int = 0
    seconds: float = 0.0


@dataclass
class Statistics:
    """Totals of one device since it was opened.

    Attributes
    ----------
    ops : dict
        Operator name -> `OpCount`.
    bytes_in, bytes_out : int
        Bytes moved to and from the device.
    transfer_seconds : float
    counters : dict
        Figures of the back end's own, such as the cycles of an overlay.
    """

    ops: dict[str, OpCount] = field(default_factory=dict)
    bytes_in: int = 0
    bytes_out: int = 0
    transfer_seconds: float = 0.0
    counters: dict[str, float] = field(default_factory=dict)

    def add(self, record: TaskRecord) -> None:
        """Count one task or transfer."""
        if record.op in TRANSFERS:
            self.transfer_seconds += record.seconds
            if record.op == "upload":
                self.bytes_in += record.nbytes
            else:
                self.bytes_out += record.nbytes
            return
        count = self.ops.get(record.op)
        if count is None:
            count = self.ops[record.op] = OpCount()
        count.tasks += 1
        count.seconds += record.seconds

    def count(self, name: str, amount: float) -> None:
        """Add to a counter of the back end."""
        self.counters[name] = self.counters.get(name, 0) + amount

    @property
    def tasks(self) -> int:
        """Tasks of all operators."""
        return sum(count.tasks for count in self.ops.values())

    @property
    def seconds(self) -> float:
        """Seconds of all operators, transfers left out."""
        return sum(count.seconds for count in self.ops.values())
