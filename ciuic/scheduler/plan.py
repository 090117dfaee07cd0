"""Plan: what runs where, and why. A value; nothing here touches a device."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Step:
    """One layer of a chain.

    Attributes
    ----------
    layer
        Name of the layer.
    device
        URI.
    reason
        Why it is there.
    seconds
        Measured for a layer of its kind; None where there was no choice.
    on_host
        Operators that the device has no kernel for; the host ran them.
    """

    layer: str
    device: str
    reason: str
    seconds: float | None = None
    on_host: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A chain of layers, in order.

    Attributes
    ----------
    steps
        The layers.
    note
        Why this plan replaced the one before; empty if none did.
    """

    steps: tuple[Step, ...]
    note: str = ""

    @property
    def seconds(self) -> float | None:
        """Expected time of the whole chain, or None if a step's is not known."""
        known = [step.seconds for step in self.steps if step.seconds is not None]
        return sum(known) if len(known) == len(self.steps) else None

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {**asdict(self), "seconds": self.seconds}

    def __str__(self) -> str:
        lines = [self.note] if self.note else []
        for step in self.steps:
            host = f"; on the host: {', '.join(step.on_host)}" if step.on_host else ""
            lines.append(f"{step.layer}: {step.device} ({step.reason}{host})")
        return "\n".join(lines)
