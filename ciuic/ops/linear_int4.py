"""linear_int4: activations (t, k) times an INT4 weight with group scales (k, n), plus bias (n,).

Activations are quantized to INT8 as in `ciuic.ops.linear`; the product is that of
`ciuic.reference.gemm_w4`, the weight a `ciuic.quantize_int4.GroupQuantizedMatrix`. If it has
offsets, their share is added: each group's sum of activations times its offset, over 2**W4_SHIFT,
rounded half to even. That is 1 / W4_GROUP of the work, and it is the host's with an overlay.

The numpy kernel multiplies each INT4 integer by its group's scale beforehand. All sums are then
below 2**53 in magnitude, so that BLAS gives them exactly in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi.numerics import W4_GROUP, W4_SHIFT
from ciuic.quantize import Float32Array, quantize_rows_float
from ciuic.quantize_int4 import INT4, GroupQuantizedMatrix

from .linear import rescale
from .operator import Cost, Operator, Shape, Spec, require

BLOCK_ROWS = 64  # of a weight that are float64 at a time: they stay in the processor's cache


@dataclass(frozen=True, eq=False)
class ScaledWeight:
    """An INT4 weight as float32: its integers times their groups' scales (k, n), units (n,)."""

    values: Float32Array
    units: Float32Array
    offsets: npt.NDArray[np.int32] | None  # (groups, n)

    @classmethod
    def of(cls, weight: GroupQuantizedMatrix) -> ScaledWeight:
        """Return the weight with its scales multiplied in; the products have 18 bits."""
        scales = np.repeat(weight.scales.astype(np.float32), W4_GROUP, axis=0)
        return cls(weight.values * scales[: weight.shape[0]], weight.units, weight.offsets)


def _shape(x: Spec, weight: Spec, bias: Spec | None = None) -> Shape:
    inputs = (x, weight) if bias is None else (x, weight, bias)
    fits = (
        len(x.shape) == 2
        and x.dtype == np.float32
        and weight.dtype == INT4
        and x.shape[1] == weight.shape[0]
        and (bias is None or (bias.shape == weight.shape[1:] and bias.dtype == np.float32))
    )
    require(fits, "linear_int4", "float32 (t, k), INT4 (k, n) and float32 (n,) or no bias", inputs)
    return (x.shape[0], weight.shape[1])


def _cost(x: Spec, weight: Spec, bias: Spec | None = None) -> Cost:
    (t, k), n = x.shape, weight.shape[1]
    groups = -(-k // W4_GROUP)
    return Cost(2 * t * k * n, k * n // 2 + 2 * groups * n + 4 * (t * k + t * n + n))


def accumulate(values: Float32Array, weight: Float32Array) -> npt.NDArray[np.float64]:
    """Return the results (t, n) of `ciuic.reference.gemm_w4`, integers held as float64.

    ``values`` (t, k) are the integers of activations, at most `ciuic.quantize.LEVELS` in magnitude,
    so that no result saturates; ``weight`` (k, n) those of a `ScaledWeight`.
    """
    total: npt.NDArray[np.float64] = np.zeros((values.shape[0], weight.shape[1]))
    for start in range(0, values.shape[1], BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        total += values[:, part].astype(np.float64) @ weight[part].astype(np.float64)
    result: npt.NDArray[np.float64] = np.rint(total / 2**W4_SHIFT)
    return result


def add_offsets(
    products: npt.NDArray[Any],
    values: npt.NDArray[Any],
    offsets: npt.NDArray[np.int32] | None,
) -> Float32Array:
    """Return products (t, n) plus the share of a weight's offsets, as float32 (one rounding).

    Parameters
    ----------
    products
        Integers (t, n), of `ciuic.reference.gemm_w4`.
    values
        The integers (t, k) of activations.
    offsets
        Those (groups, n) of the weight, or None.
    """
    if offsets is None:
        result: Float32Array = products.astype(np.float32)
        return result
    starts = np.arange(0, values.shape[1], W4_GROUP)
    sums = np.add.reduceat(values, starts, axis=1, dtype=np.float64)  # (t, groups)
    share = np.rint(sums @ offsets.astype(np.float64) / 2**W4_SHIFT)
    result = (products + share).astype(np.float32)
    return result


def _kernel(
    x: Float32Array, weight: ScaledWeight, bias: Float32Array | None = None
) -> Float32Array:
    values, scales = quantize_rows_float(x)
    products = add_offsets(accumulate(values, weight.values), values, weight.offsets)
    return rescale(products, scales, weight.units, bias)


OPERATOR = Operator("linear_int4", _shape, _cost, _kernel)
