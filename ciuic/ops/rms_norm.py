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
    mean_square = np.einsum("td,td->t", x, x)[:, None] / np.float32(x.shape[1])
    result: Float32Array = x / np.sqrt(mean_square + np.float32(eps)) * weight
    return result


OPERATOR = Operator("rms_norm", _shape, _cost, _kernel)
