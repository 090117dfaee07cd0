"""Golden model of the softmax engine, and the bound of its error.

The steps are those of `ciuic.abi.numerics`; the result does not depend on lanes or on the order of
elements, except that the remainder of the rounding is carried from each element to the next.

Claims, for rows of up to 4096 elements and any scale, against softmax in real numbers:

1. A 16-bit result is off by less than 2**-13, an 8-bit result by at most 2**-8.
2. The 16-bit results of a row sum to one within 2**-10. The 8-bit results sum to one exactly, but
   that one itself is not among them: a result of one is 255 * 2**-8, beside zeros.
3. Where x[i] > x[j] and the exact results differ by more than the bound of claim 1, result i is
   larger than result j with 16 bits, and not smaller with 8 bits.

Derivation. Let p be the exact result, t = scale * log2(e) * (max - x) >= 0, E = 2**-t, S the sum of
E, so S >= 1 and p = E / S. One unit is 2**-17, half a unit in the last place of a 16-bit result.

==================  ==============================  ===============================================
step                error of the step               share in the error of a result, in units
==================  ==============================  ===============================================
scale               2**-17 * t, half a unit of a    ln 2 * p * |t - mean(t)|, the mean weighted by
                    multiplier of at least 2**16    p. p * t <= 0.54 since p <= 2**-t. mean(t) is at
                                                    most the entropy, at most h(p) + (1 - p) * 12
                                                    bits with h the binary entropy, and p times
                                                    that is below 3.6: **2.5**
scaled, exponent    t too small by less than        a relative error of E in [0, 1.04], p * (1 - p)
                    2**-17 + 2**-18                 of it is not cancelled by the sum: **0.3**
mantissa            1/2 (table) + 1/2 (rounding) +  twice that relative to E, which is at least 1/2
                    0.12 (chord above 2**-f)        before its halvings; both signs, p * (1 - p) of
                                                    it is not cancelled by the sum: **1.2**
elements at t > 32  2**-32 * 4096 of the sum        **0.2**
sum                 2**-30 * 4096                   **0.5**
reciprocal          1 (table, its first entry) +    multiplied by E and the norm, at most one:
                    1/2 (rounding) + 1/2 (chord)    **2.0**; and **0.5** for the bits of S that are
                                                    cut off
probability         2**-26                          **0.1**
==================  ==============================  ===============================================

Together less than 7.4 units: a probability is off by less than 3.7 * 2**-16. A small one is off by
less, as all but the cut goes down with p: the scale's share is below ln 2 * p * 12, the mantissa's
below 4.8 * p, the reciprocal's below 4 * p and 1 * p. That makes 1.2 units for p < 2**-4 and 0.4
for p < 2**-6.

*16 bits.* Each result is a neighbour of its probability, so less than 2**-16 is added: 4.7 *
2**-16, a little more than half of the bound. Saturation can only bring a result of 2**16 closer to
p <= 1, or leaves it one unit in the last place below.

*8 bits.* A neighbour may be a unit of 2**-8 away, which alone is the bound. So a probability closer
to a unit than its error becomes that unit: closer than 2**-14, which is 8 units of 2**-17, from
16 * 2**-8 on, than 2**-16 (2 units) from 4 * 2**-8 on, than 2**-18 (half a unit) below. Any other
is farther than its error from the end of its range. Below one unit of 2**-8 a probability does not
become zero: zero is right for it, and so is one unit, as p is not negative.

*Sum.* The results sum to the rounded sum of the probabilities; that is off by the reciprocal (1.4 *
2**-16), the cut of each probability (4096 * 2**-26 = 4 * 2**-16), the sum (0.3 * 2**-16), its
rounding (1/2 * 2**-16) and a saturation (2 * 2**-16): less than 9 * 2**-16. With 8 bits what
becomes a unit of 2**-8 is moved by little more than 2**-10 of itself (2**-14 of at least 2**-4,
2**-16 of 2**-6, 2**-18 of almost 2**-8), so all of them together by less than 1.01 * 2**-10. With
the errors above that is less than half a unit of 2**-8, and the rounded sum is one.

*Order.* Every step falls with the distance, the joints of the table included, so x[i] > x[j] never
gives a smaller probability. Sum and reciprocal scale all of a row alike; what is left, the errors
of two exponentials with p at most 1/2 (the largest one is exact), moves a difference by less than
2 * 2**-16. So 8 * 2**-16 leaves more than two units of 16 bits, and neighbours cannot meet; 2**-8
leaves a unit of 8 bits less the errors of both. In the same unit that is room for one of the two
only if it is closer to an end than its error: then it is at that end. So they cannot change places.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import Format, numerics
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import ShapeError

Integers = npt.NDArray[np.int64]
Scores = npt.NDArray[np.int8 | np.int16 | np.int32]
Fractions = npt.NDArray[np.uint16 | np.uint8]

MAX_ERROR = {Format.Q0_16: 2.0**-13, Format.Q0_8: 2.0**-8}  # of a result
MAX_SUM_ERROR = 2.0**-10  # of the sum of a row of 16-bit results

ELEMENTS_PER_BLOCK = 2**18  # bounds the memory of the intermediate int64 arrays
SCORE_DTYPES = (np.int8, np.int16, np.int32)
RESULT_DTYPES: dict[Format, type[np.uint16] | type[np.uint8]] = {
    Format.Q0_16: np.uint16,
    Format.Q0_8: np.uint8,
}


def causal_lengths(rows: int, cols: int, row_offset: int = 0) -> Integers:
    """Return the valid elements of each row (rows,) under ``Flag.CAUSAL``."""
    return np.minimum(np.arange(rows, dtype=np.int64) + row_offset + 1, cols)


def valid_lengths(
    rows: int, cols: int, *, row_offset: int | None = None, lengths: npt.ArrayLike | None = None
) -> Integers:
    """Return the valid elements of each row (rows,) of a descriptor.

    Parameters
    ----------
    row_offset
        Of the causal mask; none if omitted.
    lengths
        At most as many elements of each row (rows,), under ``Flag.LENGTHS``; more than cols count
        as cols.
    """
    valid = np.full(rows, cols) if row_offset is None else causal_lengths(rows, cols, row_offset)
    return valid if lengths is None else np.minimum(valid, np.asarray(lengths, np.int64))


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
    """Return the probabilities with those close to a whole unit, but for zero, set to it."""
    part = probability & (unit - 1)
    whole = probability - part
    large = whole >= numerics.SNAP_8_LARGE * unit
    steps = np.where(large, 0, np.where(whole >= numerics.SNAP_8_MEDIUM * unit, 1, 2))
    close = numerics.SNAP_8 // numerics.SNAP_8_STEP**steps
    above = np.where(part >= unit - close, whole + unit, probability)
    return np.where((part < close) & (whole > 0), whole, above)
