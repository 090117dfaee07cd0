"""Golden model of the GEMM engine, in two steps: sums, then the output stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ciuic.abi.numerics import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    INT32_MIN,
    REQUANT_MAX_SHIFT,
    REQUANT_MULTIPLIER_BITS,
    W4_GROUP,
    W4_SCALE_MAX,
    W4_SHIFT,
)
from ciuic.errors import ShapeError

# Products of two INT8 numbers are at most 2**14, so this many sum exactly in float32's 24 bits.
EXACT_FLOAT32_TERMS = 2**24 // 2**14

Int8 = npt.NDArray[np.int8]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ColumnParameters:
    """What the output stage does to each column: arrays of shape (n,)."""

    bias: Int32
    multiplier: npt.NDArray[np.uint16]
    shift: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if not self.bias.shape == self.multiplier.shape == self.shift.shape:
            raise ShapeError("bias, multiplier and shift must have the same shape (n,)")
        if self.shift.size and self.shift.max() > REQUANT_MAX_SHIFT:
            raise ShapeError(f"shift must be at most {REQUANT_MAX_SHIFT}, not {self.shift.max()}")

    @classmethod
    def encode(
        cls, factor: npt.NDArray[np.floating], bias: Int32 | None = None
    ) -> ColumnParameters:
        """Return the parameters whose requantization multiplies column j by factor[j] > 0.

        The factor is rounded to `REQUANT_MULTIPLIER_BITS` significant bits.
        """
        factor = np.asarray(factor, np.float64)
        if not (np.isfinite(factor).all() and (factor > 0).all()):
            raise ShapeError("factors must be positive and finite")
        mantissa, exponent = np.frexp(factor)  # 0.5 <= mantissa < 1
        multiplier = np.rint(mantissa * 2**REQUANT_MULTIPLIER_BITS)
        carry = multiplier == 2**REQUANT_MULTIPLIER_BITS
        multiplier = np.where(carry, multiplier / 2, multiplier)
        shift = REQUANT_MULTIPLIER_BITS - exponent - carry
        if (shift < 0).any():
            raise ShapeError(f"factors must be below {2**REQUANT_MULTIPLIER_BITS}")
        tiny = shift > REQUANT_MAX_SHIFT  # rounds every sum to zero
        return cls(
            np.zeros(factor.shape, np.int32) if bias is None else bias,
            np.where(tiny, 0, multiplier).astype(np.uint16),
            np.where(tiny, 0, shift).astype(np.uint8),
        )


def gemm(activations: Int8, weights: Int8) -> Int32:
    """Return activations (m, k) @ weights (k, n) as INT32 (m, n), wrapping as the hardware does."""
    return _exact_product(activations, weights).astype(np.int32)


def gemm_w4(activations: Int8, weights: Int8, scales: npt.NDArray[np.int16]) -> Int32:
    """Return the product (m, n) with INT4 weights (k, n) and group scales (groups, n).

    The sum over groups g of scales[g] * (activations[:, g] @ weights[g]), over 2**W4_SHIFT, rounded
    half to even and saturated to INT32. The sum is exact, so for real scales s = scale * unit the
    only errors are half a unit of 2**W4_SHIFT and what the rounding of s to an integer costs.
    """
    total: Int64 = np.zeros((activations.shape[0], weights.shape[1]), np.int64)
    for group, scale in enumerate(scales):
        part = slice(group * W4_GROUP, (group + 1) * W4_GROUP)
        total += _exact_product(activations[:, part], weights[part]) * scale.astype(np.int64)
    rounded = _round_half_even(total, np.int64(W4_SHIFT))
    return np.clip(rounded, INT32_MIN, INT32_MAX).astype(np.int32)


def encode_scales(
    scales: npt.NDArray[np.floating],
) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.float64]]:
    """Return group scales (groups, n) as INT16, and what a unit of each column's results is, (n,).

    With them a column's product is `gemm_w4` times its unit. It differs from the exact product with
    the real scales by at most

        unit * (1/2 + sum over groups g of |activations[:, g] @ weights[g]| / 2**(W4_SHIFT + 1)),

    where unit is 2**W4_SHIFT / W4_SCALE_MAX of the column's largest scale: the rounding of the
    result and of each scale. So the error is about 2**-16 of the groups' products where they have
    the largest scale, and below 2**-10 of a result that is not small by cancellation.
    """
    scales = np.asarray(scales, np.float64)
    if scales.ndim != 2 or not np.isfinite(scales).all():
        raise ShapeError(f"scales must be a finite matrix (groups, n), not of shape {scales.shape}")
    largest = np.abs(scales).max(axis=0)
    step = np.where(largest > 0, largest, 1.0) / W4_SCALE_MAX
    return np.rint(scales / step).astype(np.int16), step * 2.0**W4_SHIFT


def output_stage(
    sums: Int32,
    *,
    parameters: ColumnParameters | None = None,
    residual: npt.NDArray[np.integer] | None = None,
    requantize: bool = False,
) -> npt.NDArray[np.integer]:
    """Return what the overlay writes for sums (m, n): INT32, or INT8 with ``requantize``.

    Parameters
    ----------
    sums
        Results of `gemm` or `gemm_w4`.
    parameters
        Bias, and factors for ``requantize``.
    residual
        Added at the end: INT32 wraps, INT8 saturates.
    requantize
        Whether to multiply and round to INT8.
    """
    values = sums.astype(np.int64)
    if parameters is not None:
        values = values + parameters.bias
    if requantize:
        if parameters is None:
            raise ShapeError("requantized results need column parameters")
        scaled = values * parameters.multiplier.astype(np.int64)
        values = _round_half_even(scaled, parameters.shift.astype(np.int64))
    if residual is not None:
        values = values + residual
    if requantize:
        return np.clip(values, INT8_MIN, INT8_MAX).astype(np.int8)
    return values.astype(np.int32)


def _round_half_even(values: Int64, shift: np.int64 | Int64) -> Int64:
    """Return values / 2**shift, rounded half to even."""
    quotient = values >> shift
    remainder = values - (quotient << shift)
    twice = remainder << 1
    unit = np.int64(1) << shift
    up = (twice > unit) | ((twice == unit) & (quotient & 1 == 1))
    result: Int64 = quotient + up
    return result


def _exact_product(activations: Int8, weights: Int8) -> Int64:
    """Return the product in float32 slices along K that are exact; BLAS has no integer product."""
    if activations.dtype != np.int8 or weights.dtype != np.int8:
        raise ShapeError(f"operands must be int8, not {activations.dtype} and {weights.dtype}")
    if activations.ndim != 2 or weights.ndim != 2 or activations.shape[1] != weights.shape[0]:
        raise ShapeError(
            f"shapes must be (m, k) and (k, n), not {activations.shape} and {weights.shape}"
        )
    total: Int64 = np.zeros((activations.shape[0], weights.shape[1]), np.int64)
    for start in range(0, activations.shape[1], EXACT_FLOAT32_TERMS):
        part = slice(start, start + EXACT_FLOAT32_TERMS)
        product = activations[:, part].astype(np.float32) @ weights[part].astype(np.float32)
        total += product.astype(np.int64)
    return total
