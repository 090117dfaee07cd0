"""linear: activations (t, k) times an INT8 weight (k, n), exact in INT32, plus bias (n,).

The numpy kernel computes the integers in float32, where sums of products are exact while they
stay below 2**24 in magnitude, because BLAS has no integer product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ciuic.quantize import LEVELS, Float32Array, QuantizedMatrix, quantize_rows_float
from ciuic.reference.gemm import EXACT_FLOAT32_TERMS

from .operator import Cost, Operator, Shape, Spec, require

# A row whose magnitudes sum to no more than this has exact products in float32 for any weights.
EXACT_ROW_SUM = (2**24 - 1) // LEVELS


@dataclass(frozen=True, eq=False)
class FloatWeight:
    """An INT8 weight whose integers are held as float32: values (k, n), scales (n,)."""

    values: Float32Array
    scales: Float32Array

    @classmethod
    def of(cls, weight: QuantizedMatrix) -> FloatWeight:
        """Return the weight with its integers as float32."""
        return cls(weight.values.astype(np.float32), weight.scales)

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes


def _shape(x: Spec, weight: Spec, bias: Spec | None = None) -> Shape:
    inputs = (x, weight) if bias is None else (x, weight, bias)
    fits = (
        len(x.shape) == 2
        and x.dtype == np.float32
        and weight.dtype == np.int8
        and x.shape[1] == weight.shape[0]
        and (bias is None or (bias.shape == weight.shape[1:] and bias.dtype == np.float32))
    )
    require(fits, "linear", "float32 (t, k), int8 (k, n) and float32 (n,) or no bias", inputs)
    return (x.shape[0], weight.shape[1])


def _cost(x: Spec, weight: Spec, bias: Spec | None = None) -> Cost:
    (t, k), n = x.shape, weight.shape[1]
    return Cost(2 * t * k * n, k * n + 4 * (t * k + t * n + n))


def accumulate(values: Float32Array, weight: Float32Array) -> Float32Array:
    """Return the INT32 product of integers held as float32, as float32 (one rounding).

    ``values`` is (t, k), ``weight`` (k, n); magnitudes are at most `LEVELS`.
    """
    if np.abs(values).sum(axis=1).max() <= EXACT_ROW_SUM:
        return values @ weight
    total = np.zeros((values.shape[0], weight.shape[1]), np.int32)
    for start in range(0, values.shape[1], EXACT_FLOAT32_TERMS):
        part = slice(start, start + EXACT_FLOAT32_TERMS)
        total += (values[:, part] @ weight[part]).astype(np.int32)
    return total.astype(np.float32)


def rescale(
    accumulators: Float32Array,
    row_scales: Float32Array,
    column_scales: Float32Array,
    bias: Float32Array | None,
) -> Float32Array:
    """Return accumulators (t, n) times the scales of rows (t,) and columns (n,), plus bias."""
    result = accumulators * (row_scales[:, None] * column_scales)
    return result if bias is None else result + bias


def _kernel(x: Float32Array, weight: FloatWeight, bias: Float32Array | None = None) -> Float32Array:
    values, scales = quantize_rows_float(x)
    return rescale(accumulate(values, weight.values), scales, weight.scales, bias)


OPERATOR = Operator("linear", _shape, _cost, _kernel)
