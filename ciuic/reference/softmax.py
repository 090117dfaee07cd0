"""Golden model of the softmax engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import Format, numerics
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import ShapeError

Integers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.int8 | np.int16 | np.int32]
Fractions = npt.NDArray[np.uint16 | np.uint8]

ELEMENTS_PER_BLOCK = 2**18  # bounds the memory of the intermediate int64 arrays
SCORE_DTYPES = (np.int8, np.int16, np.int32)
RESULT_DTYPES: dict[Format, type[np.uint16] | type[np.uint8]] = {
    Format.Q0_16: np.uint16,
    Format.Q0_8: np.uint8,
}


def causal_lengths(rows: int, cols: int, row_offset: int = 0) -> Integers:
    """Return the valid elements of each row (rows,) under ``Flag.CAUSAL``."""
    return np.minimum(np.arange(rows, dtype=np.int64) + row_offset + 1, cols)


def softmax(
    scores: Scores,
    *,
    scale: SoftmaxScale,
    out: Format = Format.Q0_16,
    lengths: npt.ArrayLike | None = None,
) -> Fractions:
    """Return the softmax of ``scale`` times each row, as the engine computes it.

    Parameters
    ----------
    scores
        INT8, INT16 or INT32 (rows, cols).
    scale
        What multiplies the scores, from `SoftmaxScale.encode`.
    out
        ``Format.Q0_16`` or ``Format.Q0_8``.
    lengths
        Valid elements of each row (rows,), 0 to cols; elements beyond are zero in the result.

    Returns
    -------
    numpy.ndarray
        (rows, cols), uint16 in units of 2**-16 or uint8 in units of 2**-8.

    Raises
    ------
    ShapeError
        If shapes, dtypes or formats do not fit.
    """
    _check(scores, out)
    rows, cols = scores.shape
    valid = np.full(rows, cols) if lengths is None else np.asarray(lengths)
    if valid.shape != (rows,) or valid.min() < 0 or valid.max() > cols:
        raise ShapeError(f"lengths must be {rows} numbers from 0 to {cols}, not {lengths!r}")
    result: Fractions = np.empty((rows, cols), RESULT_DTYPES[out])
    step = max(1, ELEMENTS_PER_BLOCK // cols)
    for start in range(0, rows, step):
        block = slice(start, start + step)
        mask = np.arange(cols) < valid[block, None]
        result[block] = _softmax_block(scores[block].astype(np.int64), mask, scale, out)
    return result


def _check(scores: Scores, out: Format) -> None:
    if scores.dtype not in SCORE_DTYPES:
        raise ShapeError(f"scores must be int8, int16 or int32, not {scores.dtype}")
    if scores.ndim != 2 or 0 in scores.shape:
        raise ShapeError(f"scores must be a non-empty matrix (rows, cols), not {scores.shape}")
    if out not in RESULT_DTYPES:
        raise ShapeError(f"result format must be Q0_16 or Q0_8, not {out!r}")


def _softmax_block(
    scores: Integers, mask: npt.NDArray[np.bool_], scale: SoftmaxScale, out: Format
) -> Integers:
    """Return the results (rows, cols) of scores (rows, cols)."""
    maximum = np.where(mask, scores, numerics.INT32_MIN).max(axis=1, keepdims=True)
    distance = np.where(mask, maximum - scores, 0)
    mantissa, halvings = exponential(distance, scale)
    mantissa[~mask] = 0
    total = ((mantissa << (numerics.SUM_FRACTION - numerics.MANTISSA_FRACTION)) >> halvings).sum(
        axis=1, keepdims=True
    )
    inverse, norm = reciprocal(np.maximum(total, 1 << numerics.SUM_FRACTION))
    shift = _PRODUCT_FRACTION - numerics.PROBABILITY_FRACTION
    probability = (mantissa * inverse) >> (shift + halvings + norm)
    return _round(probability, out)


_PRODUCT_FRACTION = numerics.MANTISSA_FRACTION + numerics.RECIPROCAL_FRACTION
_EXP2 = np.array(numerics.exp2_table(), np.int64)  # (entries, 2)
_RECIPROCAL = np.array(numerics.reciprocal_table(), np.int64)  # (entries, 2)


def exponential(distance: Integers, scale: SoftmaxScale) -> tuple[Integers, Integers]:
    """Return exp(-scale * distance) as mantissa * 2**-(halvings + MANTISSA_FRACTION)."""
    scaled = np.minimum(
        (distance << numerics.PRE_SHIFT) >> scale.shift, 2**numerics.SCALED_BITS - 1
    )
    exponent = (scaled * scale.multiplier) >> numerics.POST_SHIFT
    halvings = exponent >> numerics.EXPONENT_FRACTION
    mantissa = _interpolate(_EXP2, exponent & (2**numerics.EXPONENT_FRACTION - 1))
    far = halvings >= numerics.EXPONENT_LIMIT
    return np.where(far, 0, mantissa), np.where(far, 0, halvings)


def reciprocal(total: Integers) -> tuple[Integers, Integers]:
    """Return 2**SUM_FRACTION / total as inverse * 2**-(norm + RECIPROCAL_FRACTION)."""
    units = total >> numerics.SUM_FRACTION
    norm = np.frexp(units.astype(np.float64))[1].astype(np.int64) - 1  # exact: 13 bits
    fraction_bits = numerics.TABLE_BITS + numerics.STEP_BITS
    fraction = (total >> (numerics.SUM_FRACTION - fraction_bits + norm)) - (1 << fraction_bits)
    return _interpolate(_RECIPROCAL, fraction), norm


def _interpolate(table: Integers, position: Integers) -> Integers:
    """Return the table's value at a position of TABLE_BITS + STEP_BITS bits."""
    entry = table[position >> numerics.STEP_BITS]
    step = position & (2**numerics.STEP_BITS - 1)
    half = 2 ** (numerics.STEP_BITS - 1)
    return np.asarray(entry[..., 0] - ((entry[..., 1] * step + half) >> numerics.STEP_BITS))


def _round(probability: Integers, out: Format) -> Integers:
    """Return results whose sum along a row is the rounded sum of its probabilities."""
    bits = {
        Format.Q0_16: numerics.RESULT_FRACTION_16,
        Format.Q0_8: numerics.RESULT_FRACTION_8,
    }[out]
    unit = numerics.PROBABILITY_FRACTION - bits
    if out is Format.Q0_8:
        probability = _snap(probability, 1 << unit)
    running = np.cumsum(probability, axis=1) + (1 << (unit - 1))
    running >>= unit
    return np.minimum(np.diff(running, axis=1, prepend=0), (1 << bits) - 1)


def _snap(probability: Integers, unit: int) -> Integers:
    """Return the probabilities with those close to a whole unit set to it."""
    part = probability & (unit - 1)
    whole = probability - part
    above = np.where(part >= unit - numerics.SNAP_8, whole + unit, probability)
    return np.where(part < numerics.SNAP_8, whole, above)
