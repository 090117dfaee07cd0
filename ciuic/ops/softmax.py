"""softmax: rows (rows, cols) of ``scale`` times the scores.

Besides the exact kernel this file holds the fixed-point form that the overlay computes ("q16"):
scores become INT32 with `FRACTION_BITS` fraction bits, probabilities are unsigned Q0.16.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi import Format
from ciuic.abi.numerics import INT32_MAX, SoftmaxScale
from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elementwise_cost, require

FRACTION_BITS = 12
# Integer softmax of INT32 scores (rows, cols), of a scale and of valid lengths (rows,) or None.
IntegerSoftmax = Callable[
    [npt.NDArray[np.int32], SoftmaxScale, "npt.NDArray[np.int32] | None"], npt.NDArray[np.uint16]
]


@lru_cache(maxsize=64)
def encoded_scale(scale: float = 1.0) -> SoftmaxScale:
    """Return the scale of integer scores that stand for ``scale`` times real ones."""
    return SoftmaxScale.encode(scale / (1 << FRACTION_BITS))


def fixed_point(scores: Float32Array) -> npt.NDArray[np.int32]:
    """Return scores as INT32 with `FRACTION_BITS` fraction bits, saturated."""
    scaled = np.rint(scores.astype(np.float64) * (1 << FRACTION_BITS))
    return np.clip(scaled, -INT32_MAX, INT32_MAX).astype(np.int32)


def reference_softmax(
    scores: npt.NDArray[np.int32],
    scale: SoftmaxScale,
    lengths: npt.NDArray[np.int32] | None,
) -> npt.NDArray[np.uint16]:
    """Return the golden model's probabilities, Q0.16 (rows, cols)."""
    result = reference.softmax(scores, scale=scale, out=Format.Q0_16, lengths=lengths)
    return result.astype(np.uint16, copy=False)


def softmax_q16(
    scores: Float32Array,
    *,
    scale: float = 1.0,
    lengths: npt.NDArray[np.int32] | None = None,
    engine: IntegerSoftmax = reference_softmax,
) -> Float32Array:
    """Return softmax of rows (rows, cols) through the overlay's number formats."""
    fractions = engine(fixed_point(scores), encoded_scale(scale), lengths)
    return fractions.astype(np.float32) / np.float32(1 << 16)


def _shape(x: Spec, *, scale: float = 1.0) -> Shape:
    fits = len(x.shape) == 2 and x.shape[1] > 0 and x.dtype == np.float32 and scale > 0
    require(fits, "softmax", "float32 (rows, cols) with a scale above zero", (x,))
    return x.shape


def _cost(x: Spec, *, scale: float = 1.0) -> Cost:
    return elementwise_cost(x.shape, flops=8, arrays=2)


def probabilities(scores: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Return softmax over the last axis in float64."""
    shifted = scores.astype(np.float64)
    shifted -= scores.max(axis=-1, keepdims=True)
    np.exp(shifted, out=shifted)
    shifted /= shifted.sum(axis=-1, keepdims=True)
    return shifted


def _kernel(x: Float32Array, *, scale: float = 1.0) -> Float32Array:
    return probabilities(x * np.float32(scale)).astype(np.float32)


OPERATOR = Operator("softmax", _shape, _cost, _kernel)
