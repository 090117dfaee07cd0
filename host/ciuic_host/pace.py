"""Pace: an emulated overlay that lets its results be seen when a board would have them.

Work is computed at once, on the CPU; what takes time on the board, its cycles and the bytes over
its link, is then slept through. So a paced overlay leaves the CPU to others while it "works", and
what overlaps with it can be measured on a machine without a board.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from ciuic.abi import Status

AT_ONCE = float("-inf")


class Outcome(NamedTuple):
    """What the registers say from some time on."""

    due: float  # of `time.monotonic`
    completed: int
    pending: int  # bits of INTERRUPT_STATUS that are raised
    code: Status | None  # why the overlay has halted


class Pace:
    """The time of the board.

    Parameters
    ----------
    clock_hz
        Of the overlay, in Hz; None shows results at once.
    link_bytes_per_second
        Of the way to and from its memory; None moves bytes at once.
    """

    def __init__(
        self, clock_hz: float | None = None, link_bytes_per_second: float | None = None
    ) -> None:
        self._clock_hz = clock_hz
        self.link_bytes_per_second = link_bytes_per_second
        self._link = None if link_bytes_per_second is None else Link(link_bytes_per_second)
        self._outcomes: deque[Outcome] = deque()
        self._overlay_free = 0.0

    def start(self) -> float:
        """Return when work that is started now begins: when what came before it has ended."""
        return max(time.monotonic(), self._overlay_free)

    def add(
        self, began: float, cycles: int, completed: int, pending: int, code: Status | None
    ) -> None:
        """Show an outcome ``cycles`` after work ``began``."""
        due = AT_ONCE if self._clock_hz is None else began + cycles / self._clock_hz
        self._overlay_free = due
        self._outcomes.append(Outcome(due, completed, pending, code))

    def computed(self) -> float:
        """Take note that all that was added has been computed; return by how much too late."""
        if self._clock_hz is None or not self._outcomes:
            return 0.0
        late = max(0.0, time.monotonic() - self._outcomes[-1].due)
        self._overlay_free += late
        return late

    def due(self) -> list[Outcome]:
        """Return the outcomes that can be seen since the last call."""
        seen = []
        while self._outcomes and self._outcomes[0].due <= time.monotonic():
            seen.append(self._outcomes.popleft())
        return seen

    def sleep(self, seconds: float) -> None:
        """Sleep until the next outcome, but no longer than ``seconds``."""
        if self._outcomes:
            seconds = min(seconds, self._outcomes[0].due - time.monotonic())
        time.sleep(max(0.0, seconds))

    def forget(self) -> None:
        """Drop what was to come: the overlay has been reset."""
        self._outcomes.clear()
        self._overlay_free = 0.0

    def move(self, nbytes: int) -> None:
        """Take the time that bytes take over the link."""
        if self._link is not None:
            self._link.move(nbytes)


class Link:
    """A way for bytes, shared evenly by all that move some at the same time, as bursts of a bus do.

    Parameters
    ----------
    bytes_per_second
        Of all together.
    """

    def __init__(self, bytes_per_second: float) -> None:
        self._rate = bytes_per_second
        self._turn = threading.Condition()
        self._left: dict[object, float] = {}  # mover -> bytes to go
        self._seen = time.monotonic()

    def move(self, nbytes: int) -> None:
        """Return when bytes have crossed."""
        me = object()
        with self._turn:
            self._advance()
            self._left[me] = nbytes
            while (left := self._left[me]) > 0:
                self._turn.wait(left * self._movers() / self._rate)
                self._advance()
            del self._left[me]
            self._turn.notify_all()  # the others are faster from now on

    def _movers(self) -> int:
        return sum(left > 0 for left in self._left.values())

    def _advance(self) -> None:
        """Move what has moved since the last look."""
        now = time.monotonic()
        budget, self._seen = (now - self._seen) * self._rate, now
        while budget > 0 and (movers := self._movers()):
            each = min(min(left for left in self._left.values() if left > 0), budget / movers)
            for mover, left in self._left.items():
                self._left[mover] = max(0.0, left - each)
            budget -= each * movers
