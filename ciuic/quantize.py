"""INT8 matrices for linear layers: the number format that every device computes the same way.

Weights have one scale per output column, activations one per row (token). A product is then
exact in INT32, and the float result is ``float32(accumulator) * (scale_x * scale_w)``.

A weight may be *rotated*: blocks of its rows times a Hadamard matrix. Activations must then be
rotated too before they are quantized (`ciuic.ops.hadamard`), which spreads their outliers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError

LARGEST_BLOCK = 64  # of a rotation: it takes a factor of up to 8 off an outlier
LEVELS = 127  # -128 is not used, so that a magnitude times a magnitude is at most 127 * 127

Float32Array = npt.NDArray[np.float32]
Int8Array = npt.NDArray[np.int8]


class FileExtent(NamedTuple):
    """Where bytes lie in a file."""

    path: Path
    start: int


@dataclass(frozen=True, eq=False)
class QuantizedMatrix:
    """A weight matrix (k, n) as INT8 with one float32 scale per column.

    Two matrices are equal only if they are the same object: devices remember what they hold.

    Parameters
    ----------
    values : int8 (k, n)
    scales : float32 (n,)
    block : int
        Rows of a block if the weight is rotated; 1 if it is not.
    extent : FileExtent, optional
        Where the values lie in a file by columns, (n, k), if they do.

    Raises
    ------
    ShapeError
        If shapes or dtypes do not fit.
    """

    values: Int8Array
    scales: Float32Array
    block: int = 1
    extent: FileExtent | None = None

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or 0 in self.values.shape or self.values.dtype != np.int8:
            raise ShapeError(
                "values must be a non-empty INT8 matrix (k, n), "
                f"not {self.values.dtype} {self.values.shape}"
            )
        if self.scales.shape != self.values.shape[1:] or self.scales.dtype != np.float32:
            raise ShapeError(
                f"scales must be float32 {self.values.shape[1:]}, "
                f"not {self.scales.dtype} {self.scales.shape}"
            )
        check_block(self.block, self.shape[0])

    def __repr__(self) -> str:
        return f"QuantizedMatrix(shape={self.shape})"

    @property
    def shape(self) -> tuple[int, ...]:
        """(k, n)."""
        return self.values.shape

    @property
    def dtype(self) -> np.dtype[np.int8]:
        """INT8, the dtype of the values."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of values and scales."""
        return self.values.nbytes + self.scales.nbytes

    def dequantize(self) -> Float32Array:
        """Return the float32 matrix (k, n) that the integers stand for."""
        matrix = self.values.astype(np.float32) * self.scales
        return np.ascontiguousarray(rotate(matrix.T, self.block).T)


def check_block(block: int, k: int) -> None:
    """Raise `ShapeError` unless rows of k elements can be rotated in blocks of that size."""
    if not 1 <= block <= LARGEST_BLOCK or block & (block - 1) or k % block:
        raise ShapeError(
            f"block must be a power of two up to {LARGEST_BLOCK} that divides {k}, not {block}"
        )


def rotate(x: Float32Array, block: int) -> Float32Array:
    """Return rows (t, k), each block of ``block`` elements times Sylvester's Hadamard matrix.

    The result is larger by the root of ``block``; rotated again it is ``block`` times ``x``.
    """
    result, half = x, 1
    while half < block:
        pairs = result.reshape(-1, 2, half)
        result = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1)
        half *= 2
    return result.reshape(x.shape)


def block_of(k: int) -> int:
    """Return the largest power of two up to `LARGEST_BLOCK` that divides k."""
    return min(k & -k, LARGEST_BLOCK)


def quantize_columns(weights: Float32Array, *, block: int = 1) -> QuantizedMatrix:
    """Return a float32 matrix (k, n) as INT8 with one scale per column, rotated in blocks."""
    if weights.ndim != 2 or 0 in weights.shape or weights.dtype != np.float32:
        raise ShapeError(
            "weights must be a non-empty float32 matrix (k, n), "
            f"not {weights.dtype} {weights.shape}"
        )
    if not np.isfinite(weights).all():
        raise ShapeError("weights must be finite to be quantized")
    if block > 1:
        # Over the block, since activations are rotated without a factor.
        rotated = rotate(np.ascontiguousarray(weights.T), block) * np.float32(1 / block)
        weights = np.ascontiguousarray(rotated.T)
    scales = _scales(np.abs(weights).max(axis=0))
    values = np.clip(np.rint(weights / scales), -LEVELS, LEVELS).astype(np.int8)
    return QuantizedMatrix(values, scales, block)


def quantize_rows(activations: Float32Array) -> tuple[Int8Array, Float32Array]:
    """Return float32 activations (t, k) as INT8 (t, k) and their scales (t,)."""
    values, scales = quantize_rows_float(activations)
    return values.astype(np.int8), scales


def quantize_rows_float(activations: Float32Array) -> tuple[Float32Array, Float32Array]:
    """Return what `quantize_rows` does, with the integers as float32."""
    scales = _scales(np.abs(activations).max(axis=1))
    return np.rint(activations / scales[:, None]), scales


def _scales(largest: Float32Array) -> Float32Array:
    scales = largest / np.float32(LEVELS)
    return np.where(scales == 0, np.float32(1), scales)
