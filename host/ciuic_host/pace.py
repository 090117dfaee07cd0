"""Pace: an emulated overlay that lets its results be seen when a board would have them.

Work is computed at once, on the CPU; what takes time on the board, its cycles and the bytes over
its link, is then slept through. So a paced overlay leaves the CPU to others while it "works", and
what overlaps with it can be measured on a machine without a board.
"""

from __future__ import annotations

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
        self._link = link_bytes_per_second
        self._outcomes: deque[Outcome] = deque()
        self._overlay_free = self._link_free = 0.0

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
        if self._link is None:
            return
        self._link_free = max(time.monotonic(), self._link_free) + nbytes / self._link
        time.sleep(max(0.0, self._link_free - time.monotonic()))
