"""Weights in FP8 with a scale per block, as DeepSeek-V3's checkpoints hold them.

A weight is its float8_e4m3fn times the scale of its block; blocks at the edges may be cut off.
Sources: Micikevicius et al., "FP8 Formats for Deep Learning", section 3 (E4M3: 4 bits of exponent
with bias 7, 3 of mantissa, no infinities); DeepSeek-AI, "DeepSeek-V3", section 3.3.2 (blocks).
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

SCALE_SUFFIX = "_scale_inv"  # of the name of the tensor of a weight's scales


@cache
def e4m3_values() -> npt.NDArray[np.float32]:
    """Return what each byte stands for: float32 (256,), NaN for 0x7F and 0xFF."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 0xF, code & 7
    normal = np.ldexp(1.0 + mantissa / 8, exponent - 7)
    magnitude = np.where(exponent == 0, np.ldexp(mantissa / 8, -6), normal)
    magnitude[code & 0x7F == 0x7F] = np.nan
    return np.where(code & 0x80, -magnitude, magnitude).astype(np.float32)


def scales_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    """Return how many blocks a weight (n, k) has each way."""
    return tuple(-(-size // step) for size, step in zip(shape, block, strict=True))


def read_blocks(
    codes: npt.NDArray[np.uint8], scales: npt.NDArray[np.float32], block: tuple[int, int]
) -> npt.NDArray[np.float32]:
    """Return a weight (n, k) of its bytes (n, k) and the scales of its blocks."""
    (n, k), (rows, columns) = codes.shape, block
    values = e4m3_values()[codes]
    for row, of_row in enumerate(scales):  # one row of blocks at a time: no second matrix
        part = slice(row * rows, min(n, (row + 1) * rows))
        values[part] *= np.repeat(of_row, columns)[:k]
    return values
