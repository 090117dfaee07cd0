"""linear_float32: activations (t, k) times a float32 weight (k, n), plus bias (n,)."""

from __future__ import annotations

import numpy as np

from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, require


def _shape(x: Spec, weight: Spec, bias: Spec | None = None) -> Shape:
    inputs = (x, weight) if bias is None else (x, weight, bias)
    fits = (
        len(x.shape) == len(weight.shape) == 2
        and all(value.dtype == np.float32 for value in inputs)
        and x.shape[1] == weight.shape[0]
        and (bias is None or bias.shape == weight.shape[1:])
    )
    require(fits, "linear_float32", "float32 (t, k), (k, n) and (n,) or no bias", inputs)
    return (x.shape[0], weight.shape[1])


def _cost(x: Spec, weight: Spec, bias: Spec | None = None) -> Cost:
    (t, k), n = x.shape, weight.shape[1]
    return Cost(2 * t * k * n, 4 * (k * n + t * k + t * n + n))


def _kernel(
    x: Float32Array, weight: Float32Array, bias: Float32Array | None = None
) -> Float32Array:
    result: Float32Array = x @ weight
    return result if bias is None else result + bias


OPERATOR = Operator("linear_float32", _shape, _cost, _kernel)
