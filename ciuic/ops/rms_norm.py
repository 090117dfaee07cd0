"""rms_norm: rows (t, d) over their root mean square, times a weight (d,)."""

from __future__ import annotations

import numpy as np

from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elementwise_cost, require


def _shape(x: Spec, weight: Spec, *, eps: float) -> Shape:
    fits = (
        len(x.shape) == 2 and weight.shape == x.shape[1:] and x.dtype == weight.dtype == np.float32
    )
    require(fits, "rms_norm", "float32 (t, d) and (d,)", (x, weight))
    return x.shape


def _cost(x: Spec, weight: Spec, *, eps: float) -> Cost:
    return elementwise_cost(x.shape, flops=4, arrays=2)


def _kernel(x: Float32Array, weight: Float32Array, *, eps: float) -> Float32Array:
    exact = x.astype(np.float64)
    mean_square = np.einsum("td,td->t", exact, exact)[:, None] / x.shape[1]
    exact /= np.sqrt(mean_square + np.float32(eps))
    return (exact * weight).astype(np.float32)


OPERATOR = Operator("rms_norm", _shape, _cost, _kernel)
