"""Weights with a shape and a type and nothing in them: what a plan computes with."""

from __future__ import annotations

from typing import Any, NoReturn

import numpy as np

from ciuic.devices import Weight
from ciuic.errors import UsageError
from ciuic.quantize import QuantizedMatrix
from ciuic.tensor import CiuicTensor


class _Nothing:
    """Stands where a tensor expects an array of a device."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.dtype: np.dtype[Any] = np.dtype(np.float32)

    def numpy(self) -> NoReturn:
        """Refuse: there are no contents."""
        raise UsageError("an outline of a weight must not be read: it has no contents")


def outline(shape: tuple[int, ...], *, quantized: bool) -> Weight:
    """Return a weight that takes no memory, float32 or INT8 with a scale per column (k, n)."""
    if not quantized:
        return CiuicTensor.from_device(_Nothing(shape))
    # Arrays without strides: one element, whatever the shape.
    values = np.broadcast_to(np.zeros((), np.int8), shape)
    return QuantizedMatrix(values, np.broadcast_to(np.ones((), np.float32), shape[1:]))
