"""Timeline: when the overlay did what, on the host's axis of time.

Completion records count cycles since a reset. The cycle at which the first of some descriptors was
fetched is taken for the moment of their doorbell; the clock does the rest. What an emulated overlay
would do on its board may take longer than its emulation: then what follows is shown behind it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from ciuic.abi import Opcode
from ciuic.devices.statistics import Span

from .completion import Completion

KEPT = 1024  # records that nobody has asked for


class Timeline:
    """Turns cycles into time.

    Parameters
    ----------
    clock_hz
        Of the overlay, in Hz.
    """

    def __init__(self, clock_hz: float) -> None:
        self._clock_hz = clock_hz
        self._records: deque[tuple[float, int, Completion]] = deque(maxlen=KEPT)
        self._free = 0.0  # when the descriptor before ends

    def add(self, rung: float, records: Sequence[Completion]) -> None:
        """Take note of the records of descriptors whose doorbell was rung at ``rung`` seconds."""
        origin = min((record.fetched for record in records), default=0)
        self._records.extend((rung, origin, record) for record in records)

    def take(self) -> tuple[Span, ...]:
        """Return what was done since the last call, none of it before the one before it ended."""
        spans = []
        while self._records:
            rung, origin, record = self._records.popleft()
            start = max(self._free, rung + (record.started - origin) / self._clock_hz)
            self._free = max(start, rung + (record.finished - origin) / self._clock_hz)
            if self._free == start:  # pushed behind as a whole
                self._free = start + record.cycles / self._clock_hz
            spans.append(
                Span(
                    Opcode(record.opcode).name,
                    start,
                    self._free - start,
                    {
                        "fetched": record.fetched,
                        "started": record.started,
                        "finished": record.finished,
                        "cycles": record.cycles,
                        "busy": record.busy,
                        "beats_read": record.beats_read,
                        "beats_written": record.beats_written,
                    },
                )
            )
        return tuple(spans)
