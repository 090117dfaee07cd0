"""Division: the weight of a linear layer cut by columns, each part on a device of its own.

Columns of a product do not depend on one another, so the parts give the bits of the whole. A
division of one part is a weight that lies on another device than its layer, as an expert may.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ciuic.devices import Device, Weight
from ciuic.errors import UsageError
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix
from ciuic.tensor import CiuicTensor


@dataclass(frozen=True, eq=False)
class ColumnPart:
    """Columns [start, stop) of a weight, with their bias if there is one, and their device.

    ``weight`` is None for all columns: they are the weight itself, and its bias.
    """

    device: Device
    start: int
    stop: int
    weight: Weight | None = None
    bias: Weight | None = None


@dataclass(frozen=True, eq=False)
class Division:
    """The parts of a weight, in the order of their columns."""

    parts: tuple[ColumnPart, ...]

    @property
    def whole_on(self) -> Device | None:
        """The device of all columns, if there is one."""
        return self.parts[0].device if len(self.parts) == 1 else None

    def __iter__(self) -> Iterator[ColumnPart]:
        return iter(self.parts)

    def hold(self, whole: Weight) -> None:
        """Bring each part of a weight to its device, to stay there."""
        for part in self.parts:
            part.device.hold(whole if part.weight is None else part.weight)
            if part.bias is not None:
                part.device.hold(part.bias)

    def __str__(self) -> str:
        return ", ".join(f"columns {p.start}-{p.stop - 1} on {p.device.uri}" for p in self.parts)


def divide(
    weight: Weight, shares: Sequence[tuple[Device, int]], bias: Weight | None = None
) -> Division:
    """Return a division of a weight (k, n).

    Parameters
    ----------
    weight
        A matrix.
    shares
        Devices and how many columns each takes, in order; n together.
    bias
        (n,), or None.

    Raises
    ------
    UsageError
        If the shares are not those of all columns.
    """
    columns = weight.shape[-1]
    if any(count < 1 for _, count in shares) or sum(count for _, count in shares) != columns:
        told = ", ".join(f"{count} on {device.uri}" for device, count in shares)
        raise UsageError(f"shares must be {columns} columns together, each at least 1, not {told}")
    parts = []
    start = 0
    for device, count in shares:
        stop = start + count
        if count == columns:
            parts.append(ColumnPart(device, 0, columns))
            break
        cut = None if bias is None else _columns(bias, start, stop)
        parts.append(ColumnPart(device, start, stop, _columns(weight, start, stop), cut))
        start = stop
    return Division(tuple(parts))


def _columns(weight: Weight, start: int, stop: int) -> Weight:
    """Return columns [start, stop) of a weight."""
    if isinstance(weight, QuantizedMatrix):
        return QuantizedMatrix(
            weight.values[:, start:stop], weight.scales[start:stop].copy(), weight.block
        )
    if isinstance(weight, GroupQuantizedMatrix):
        offsets = weight.offsets
        return replace(
            weight,
            values=weight.values[:, start:stop],
            scales=weight.scales[:, start:stop],
            units=weight.units[start:stop],
            offsets=None if offsets is None else offsets[:, start:stop],
        )
    return CiuicTensor.adopt(np.ascontiguousarray(weight.value.host()[..., start:stop]))
