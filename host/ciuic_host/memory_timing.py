"""How fast the memory behind an overlay is, as the models of cycles see it."""

from __future__ import annotations

from dataclasses import dataclass

from .uri import Options

MAX_LATENCY = 10_000  # cycles


@dataclass(frozen=True, kw_only=True)
class MemoryTiming:
    """A memory's pace.

    Parameters
    ----------
    read_latency
        Cycles from an address to its first beat.
    write_latency
        Cycles from the last beat of a burst to its answer.
    late
        Chance in percent that a transfer comes a cycle later than it could.
    """

    read_latency: int = 20
    write_latency: int = 10
    late: int = 0

    @classmethod
    def from_options(cls, options: Options) -> MemoryTiming:
        """Return the timing that a device's name asks for; what it does not say keeps defaults."""
        usual = cls()
        return cls(
            read_latency=options.integer("read_latency", usual.read_latency, 0, MAX_LATENCY),
            write_latency=options.integer("write_latency", usual.write_latency, 0, MAX_LATENCY),
            late=options.integer("late", usual.late, 0, 95),
        )

    @property
    def beat(self) -> float:
        """Cycles of a beat, in the mean."""
        return 1 + self.late / 100
