"""Weights with a shape and a type and nothing in them: what a plan computes with."""

from __future__ import annotations

from copy import copy
from functools import lru_cache
from typing import Any, Literal, NoReturn

import numpy as np

from ciuic.abi.numerics import W4_GROUP
from ciuic.devices import Weight
from ciuic.errors import UsageError
from ciuic.quantize import QuantizedMatrix, block_of
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized
from ciuic.tensor import CiuicTensor


class _Nothing:
    """Stands where a tensor expects an array of a device."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def numpy(self) -> NoReturn:
        """Refuse: there are no contents."""
        raise UsageError("an outline of a weight must not be read: it has no contents")


def outline(shape: tuple[int, ...], form: Literal["int8", "int4"] | None) -> Weight:
    """Return a weight (k, n) or (d,) that takes no memory, in the form named or float32.

    Raises
    ------
    ShapeError
        If there is no matrix of this shape in the form.
    """
    if form is None:
        return CiuicTensor.from_device(_Nothing(shape))
    return copy(_quantized(shape, form))  # one of its own, as devices tell weights by identity


@lru_cache(maxsize=1024)
def _quantized(shape: tuple[int, ...], form: Literal["int8", "int4"]) -> Quantized:
    """Return a matrix whose arrays have no strides: one element, whatever the shape."""
    values = np.broadcast_to(np.zeros((), np.int8), shape)
    columns = np.broadcast_to(np.ones((), np.float32), shape[1:])
    if form == "int8":
        return QuantizedMatrix(values, columns, block_of(shape[0]))
    groups = (-(-shape[0] // W4_GROUP), shape[1])
    return GroupQuantizedMatrix(values, np.broadcast_to(np.ones((), np.int16), groups), columns)
