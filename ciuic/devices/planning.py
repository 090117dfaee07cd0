"""What plans want to know of a device before anything runs on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .array import Shape
from .roofline import Estimate, Roofline


class Planning:
    """The part of a `ciuic.devices.Device` that plans ask.

    Attributes
    ----------
    roofline : Roofline
    arena_alignment : int or None
        Of results, in bytes, if all of them have places in one arena (`ciuic.devices.places`).
    """

    name: str
    roofline: Roofline
    arena_alignment: int | None = None

    @property
    def fingerprint(self) -> str:
        """What measurements of the device depend on: its name, and its driver or overlay."""
        return self.name

    @property
    def on_chip_bytes(self) -> int:
        """Bytes of the scratchpads that programs see; 0 if there are none, or only caches."""
        return 0

    @property
    def attention(self) -> str:
        """The form of attention (`ciuic.ops.attention`) that it computes of itself."""
        return "exact"

    def estimate(
        self, op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any]
    ) -> Estimate | None:
        """Return what a model of the hardware says of a task; None if there is no such model."""
        return None

    def staging_bytes(self, op: str, inputs: Sequence[Shape]) -> int:
        """Return the bytes that a task takes on the device besides weights, inputs and result."""
        return 0

    def sizes_between(
        self, op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any]
    ) -> Sequence[int]:
        """Return the bytes of each value in between that a task has in the arena of results."""
        return ()
