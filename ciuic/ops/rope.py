"""rope: rotary position embedding of (t, heads, head_dim) at positions int32 (t,).

``interleaved`` rotates the pairs (2i, 2i + 1); otherwise element i pairs with i + head_dim / 2
(the "neox" layout of Hugging Face checkpoints).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elementwise_cost, require


@lru_cache(maxsize=16)
def frequencies(head_dim: int, theta: float) -> Float32Array:
    """Return the angle per position of each pair: float32 (head_dim / 2,), read-only."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    result = (theta**-exponents).astype(np.float32)
    result.flags.writeable = False
    return result


def _shape(x: Spec, positions: Spec, *, theta: float, interleaved: bool = False) -> Shape:
    fits = (
        len(x.shape) == 3
        and x.shape[2] % 2 == 0
        and x.dtype == np.float32
        and positions.shape == x.shape[:1]
        and positions.dtype == np.int32
    )
    require(fits, "rope", "float32 (t, heads, even head_dim) and int32 (t,)", (x, positions))
    return x.shape


def _cost(x: Spec, positions: Spec, *, theta: float, interleaved: bool = False) -> Cost:
    return elementwise_cost(x.shape, flops=3, arrays=2)


def _kernel(
    x: Float32Array,
    positions: npt.NDArray[np.int32],
    *,
    theta: float,
    interleaved: bool = False,
) -> Float32Array:
    half = x.shape[2] // 2
    angles = positions.astype(np.float32)[:, None] * frequencies(x.shape[2], theta)
    turns = angles.astype(np.float64)[:, None]  # (t, 1, head_dim / 2)
    cos, sin = np.cos(turns), np.sin(turns)
    first, second = (
        (slice(0, None, 2), slice(1, None, 2))
        if interleaved
        else (slice(0, half), slice(half, None))
    )
    a, b = x[..., first], x[..., second]
    result = np.empty_like(x)
    result[..., first] = a * cos - b * sin
    result[..., second] = b * cos + a * sin
    return result


OPERATOR = Operator("rope", _shape, _cost, _kernel)
