"""INT4 matrices for linear layers, with a scale a group of rows and column.

The integers and groups are those of GGUF's Q4_0: 32 neighbours along K share a scale. The scales
are encoded as the overlay takes them (`ciuic.reference.encode_scales`): INT16, in a unit that a
column has for itself. GGUF's Q4_1 adds an offset to each group: it becomes an integer in the same
unit, which is multiplied by the sum of the group's activations, outside of the overlay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ciuic.abi.numerics import W4_GROUP, W4_MAX, W4_MAX_K, W4_MIN, W4_SCALE_MAX, W4_SHIFT
from ciuic.errors import ShapeError
from ciuic.quantize import Float32Array, Int8Array, QuantizedMatrix
from ciuic.reference import encode_scales

INT4 = np.dtype([("int4", np.int8)])
"""Says of an array on a device that it is such a matrix; numpy itself has no INT4."""
SEARCHED = np.arange(28, 45) / 40
"""Scales tried for a group, over the one that makes its largest element the largest integer."""


@dataclass(frozen=True, eq=False)
class GroupQuantizedMatrix:
    """A weight matrix (k, n) as INT4 with one scale per group of 32 rows and column.

    It stands for (values * scales + offsets) * units / 2**W4_SHIFT, scales and offsets being those
    of the row's group. Two matrices are equal only if they are the same object: devices remember
    what they hold.

    Parameters
    ----------
    values : int8 (k, n)
        From -8 to 7.
    scales : int16 (groups, n)
        Above -2**15.
    units : float32 (n,)
        What a result of `ciuic.reference.gemm_w4` counts.
    offsets : int32 (groups, n), optional
        None where there are none.

    Raises
    ------
    ShapeError
        If shapes, dtypes or ranges do not fit.
    """

    values: Int8Array
    scales: npt.NDArray[np.int16]
    units: Float32Array
    offsets: npt.NDArray[np.int32] | None = None

    def __post_init__(self) -> None:
        values = self.values
        if values.ndim != 2 or 0 in values.shape or values.dtype != np.int8:
            raise ShapeError(
                f"values must be a non-empty INT8 matrix (k, n), not {values.dtype} {values.shape}"
            )
        k, n = values.shape
        if k > W4_MAX_K:
            raise ShapeError(f"values must have at most {W4_MAX_K} rows, not {k}")
        has_contents = any(values.strides)  # those without are for plans, and may be very large
        if has_contents and (values.min() < W4_MIN or values.max() > W4_MAX):
            raise ShapeError(
                f"values must be from {W4_MIN} to {W4_MAX}, not {values.min()} to {values.max()}"
            )
        wanted = (-(-k // W4_GROUP), n)
        if self.scales.shape != wanted or self.scales.dtype != np.int16:
            raise ShapeError(
                f"scales must be int16 {wanted}, not {self.scales.dtype} {self.scales.shape}"
            )
        if has_contents and self.scales.min() < -W4_SCALE_MAX:
            raise ShapeError(f"scales must be at least {-W4_SCALE_MAX}, not {self.scales.min()}")
        if self.units.shape != (n,) or self.units.dtype != np.float32:
            raise ShapeError(
                f"units must be float32 {(n,)}, not {self.units.dtype} {self.units.shape}"
            )
        offsets = self.offsets
        if offsets is not None and (offsets.shape != wanted or offsets.dtype != np.int32):
            raise ShapeError(
                f"offsets must be int32 {wanted} or None, not {offsets.dtype} {offsets.shape}"
            )

    def __repr__(self) -> str:
        return f"GroupQuantizedMatrix(shape={self.shape})"

    @classmethod
    def encode(
        cls,
        values: Int8Array,
        scales: npt.NDArray[np.floating],
        offsets: npt.NDArray[np.floating] | None = None,
    ) -> GroupQuantizedMatrix:
        """Return integers (k, n), real group scales and offsets (groups, n) as a matrix.

        The integers stay. Scales and offsets are rounded by at most 2**-16 of the column's largest
        scale, or 2**-31 of its largest offset if that is more.
        """
        if offsets is None:
            integers, units = encode_scales(scales)
            return cls(values, integers, units.astype(np.float32))
        # A unit in which the largest offset has less than 32 bits.
        least = np.abs(offsets).max(axis=0, keepdims=True) / W4_SCALE_MAX
        integers, units = encode_scales(np.concatenate([scales, least]))
        whole = np.rint(offsets / (units / 2**W4_SHIFT)).astype(np.int32)
        return cls(values, integers[:-1], units.astype(np.float32), whole)

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, n)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[np.void]:
        """`INT4`."""
        return INT4

    @property
    def nbytes(self) -> int:
        """Bytes on the host, where an integer of ``values`` takes a byte."""
        offsets = 0 if self.offsets is None else self.offsets.nbytes
        return self.values.nbytes + self.scales.nbytes + self.units.nbytes + offsets

    def dequantize(self) -> Float32Array:
        """Return the float32 matrix (k, n) that the integers stand for."""
        whole = self.values * self._of_rows(self.scales)
        if self.offsets is not None:
            whole += self._of_rows(self.offsets)
        result: Float32Array = (whole * (self.units / 2**W4_SHIFT)).astype(np.float32)
        return result

    def _of_rows(self, groups: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Return what groups (groups, n) have for each of their rows, (k, n)."""
        return np.repeat(groups.astype(np.int64), W4_GROUP, axis=0)[: self.shape[0]]


Quantized = QuantizedMatrix | GroupQuantizedMatrix
"""A weight matrix in integers, of either form."""


def quantize_groups(weights: Float32Array) -> GroupQuantizedMatrix:
    """Return a float32 matrix (k, n) as INT4 with one scale per group of 32 rows and column.

    Each group has the scale, of those `SEARCHED` and then fitted to the integers that it gives,
    with the smallest sum of squared errors. Scales have a sign, as in Q4_0, so that the element of
    largest magnitude may take the integer -8.
    """
    if weights.ndim != 2 or 0 in weights.shape or weights.dtype != np.float32:
        raise ShapeError(
            "weights must be a non-empty float32 matrix (k, n), "
            f"not {weights.dtype} {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ShapeError("weights must be finite to be quantized")
    k, n = weights.shape
    groups = -(-k // W4_GROUP)
    padded = np.zeros((groups * W4_GROUP, n), np.float32)
    padded[:k] = weights
    grouped = padded.reshape(groups, W4_GROUP, n)
    scales = _search(grouped)
    values = _round(grouped, scales).reshape(-1, n)[:k]
    return GroupQuantizedMatrix.encode(values.astype(np.int8), scales)


def _search(grouped: Float32Array) -> Float32Array:
    """Return the scales (groups, n) of weights (groups, W4_GROUP, n)."""
    at = np.abs(grouped).argmax(axis=1)[:, None]  # (groups, 1, n)
    extreme = np.take_along_axis(grouped, at, axis=1)[:, 0] / np.float32(W4_MIN)  # (groups, n)
    best, scales = np.full(extreme.shape, -1, np.float32), extreme
    for factor in SEARCHED:
        values = _round(grouped, extreme * np.float32(factor))
        # With the fitted scale cross / square the squared error is sum(w**2) - cross**2 / square.
        cross = (values * grouped).sum(axis=1)
        square = np.maximum((values * values).sum(axis=1), np.float32(1))
        gain = cross * cross / square
        better = gain > best
        best = np.where(better, gain, best)
        scales = np.where(better, cross / square, scales)
    return scales


def _round(grouped: Float32Array, scales: Float32Array) -> Float32Array:
    """Return the integers (groups, W4_GROUP, n), as float32, nearest to weights over scales."""
    divisors = np.where(scales == 0, np.float32(1), scales)
    return np.clip(np.rint(grouped / divisors[:, None]), W4_MIN, W4_MAX)
