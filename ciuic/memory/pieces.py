"""Pieces: columns of a matrix that stay or stream on their own. No I/O.

Slots are as large as the largest weight that streams, and few fit beside what stays. Small pieces
make many small slots of the same memory: transfers and computations then wait for one another only
when all of them are full, or empty, and what streams is spread more evenly.
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from ciuic.devices import Device, Weight
from ciuic.quantize import QuantizedMatrix


class Piece(NamedTuple):
    """Columns [start, stop) of a weight and their name, which is the weight's for all columns."""

    name: str
    start: int
    stop: int


def pieces_of(name: str, weight: Weight, device: Device) -> list[Piece]:
    """Return the pieces of a weight by which it streams to a device, as equal as they can be.

    Whole weights where the device has no wish, and of all but INT8 matrices.
    """
    columns = weight.shape[-1]
    count = 1
    if device.piece_nbytes is not None and isinstance(weight, QuantizedMatrix):
        count = min(columns, -(-device.weight_bytes(weight) // device.piece_nbytes))
    if count == 1:
        return [Piece(name, 0, columns)]
    ends = [columns * at // count for at in range(count + 1)]
    return [Piece(f"{name}[{start}:{stop}]", start, stop) for start, stop in pairwise(ends)]
