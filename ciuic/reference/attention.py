"""Golden model of the attention engine, and the bound of its error.

Keys are taken in blocks (of the array's columns). For each query and block, with x the scaled
scores in octaves (powers of two of their exponentials):

=============  ==================================================================================
scores         exact sums of INT8 products
x              |score| times the scale in the steps of the softmax engine (`ciuic.abi.numerics`:
               scaled, exponent), with the sign of the score; saturates, from 64 octaves on
octave e       largest floor(x) of the valid keys, and one; so the largest probability is from a
               half to one
probability p  2**(x - e) by the softmax engine's table, rounded to PROBABILITY_BITS, at most 127
total, sums    of p and of p times value, ATTENTION_GUARD fraction bits; what was summed before, or
               the block, whichever has the lower octave, is shifted right first
result         sums over total, by the softmax engine's reciprocal, ATTENTION_FRACTION bits, rounded
=============  ==================================================================================

The result is a mean of the values, weighted by the p, so what p and total share cancels: with E the
errors of the p and r the result, it is off by sum(E * (v - r)) / total. In units of the octave each
E is at most 2**-8 (rounding, and p below that count as zero; 2**-7 for a p of one), the total is at
least a half, and v - r at most two of the values' full scale of 128:

- Worst case, with B keys in a block: all of them just below a step of the rounding, all values at
  the end opposite to the result: B * 2**-6 of full scale. More blocks of the same octave add as
  much to the total as to the error, blocks of lower octaves count less.
- Independent errors, uniform in the steps of the rounding: sqrt(B) * 2**-8 / sqrt(3) over a half,
  times the spread of the values: with 16 keys in a block and values all at either end 2**-5.8 root
  mean square, and `TYPICAL_ERROR` = 2**-4, three and a half times that, is not passed by random
  operands.
- Table and scale are off by less than 2**-15 of p (see `softmax`), shifts by a unit of
  2**-ATTENTION_GUARD of a total of 2**6 and more, reciprocal by 2**-16, the last rounding by half a
  unit of 2**-15 of full scale: all of them far below the rounding of p.

Scores that saturate are the limit of these claims: SCALED_BITS and a multiplier of at least 2**16
leave 64 octaves on either side of zero, which is scale * |score| up to 44. Keys that all share a
large offset must be given without it (softmax does not see it).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import numerics

from .softmax import _EXP2, _RECIPROCAL, Integers, _interpolate

TYPICAL_ERROR = 2.0**-4  # of a result of random operands, of the values' full scale

_LEAST = -256  # octave of a block without valid keys, far below all others
_CAP = 63  # of a shift, which leaves nothing


def attention(
    queries: npt.NDArray[np.int8],
    keys: npt.NDArray[np.int8],
    values: npt.NDArray[np.int8],
    *,
    multipliers: npt.ArrayLike,
    shifts: npt.ArrayLike,
    lengths: npt.ArrayLike,
    block: int,
) -> npt.NDArray[np.int16]:
    """Return attention of one head as the engine computes it.

    Parameters
    ----------
    queries, keys, values
        INT8 (m, k), (n, k) and (n, d_v).
    multipliers, shifts
        Fields of each query's `SoftmaxScale` (m,).
    lengths
        Keys that each query sees (m,), from the first on; more than n count as n.
    block
        Keys that are taken at a time: the columns of the array.

    Returns
    -------
    numpy.ndarray
        INT16 (m, d_v), in units of a value over 2**ATTENTION_FRACTION; zero for queries that see
        no key.
    """
    m, n = len(queries), len(keys)
    multiplier = np.asarray(multipliers, np.int64)[:, None]
    shift = np.asarray(shifts, np.int64)[:, None]
    length = np.minimum(np.asarray(lengths, np.int64), n)
    octave = np.zeros((m, 1), np.int64)
    total = np.zeros((m, 1), np.int64)
    sums = np.zeros((m, values.shape[1]), np.int64)
    for start in range(0, n, block):
        part = slice(start, min(start + block, n))
        scores = queries.astype(np.int64) @ keys[part].T.astype(np.int64)
        valid = np.arange(part.start, part.stop) < length[:, None]
        x = _scaled(scores, multiplier, shift)
        floor = np.where(valid, x >> numerics.EXPONENT_FRACTION, _LEAST)
        new = floor.max(axis=1, keepdims=True) + 1
        p = np.where(valid, _probabilities(new, x), 0)
        apart = new - octave
        older = np.minimum(np.maximum(apart, 0), _CAP)
        newer = np.minimum(np.maximum(-apart, 0), _CAP)
        if start == 0:
            older, newer, octave = np.zeros_like(older), np.zeros_like(newer), new
        octave = np.maximum(octave, new)
        guard = numerics.ATTENTION_GUARD
        total = (total >> older) + (p.sum(axis=1, keepdims=True) << guard >> newer)
        sums = (sums >> older) + ((p @ values[part].astype(np.int64)) << guard >> newer)
    return _quotient(sums, total)


def _scaled(scores: Integers, multiplier: Integers, shift: Integers) -> Integers:
    """Return scores times their scale, EXPONENT_FRACTION fraction bits."""
    limit = 2**numerics.SCALED_BITS - 1
    scaled = np.minimum((np.abs(scores) << numerics.PRE_SHIFT) >> shift, limit)
    magnitude = (scaled * multiplier) >> numerics.POST_SHIFT
    return np.asarray(np.where(scores < 0, -magnitude, magnitude))


def _probabilities(octave: Integers, x: Integers) -> Integers:
    """Return 2**(x - octave), PROBABILITY_BITS fraction bits."""
    bits = numerics.PROBABILITY_BITS
    distance = np.maximum((octave << numerics.EXPONENT_FRACTION) - x, 0)
    halvings = distance >> numerics.EXPONENT_FRACTION
    mantissa = _interpolate(_EXP2, distance & (2**numerics.EXPONENT_FRACTION - 1))
    shift = numerics.MANTISSA_FRACTION - bits + np.minimum(halvings, 8)
    rounded = (mantissa + (1 << (shift - 1))) >> shift
    return np.where(halvings >= 8, 0, np.minimum(rounded, 2**bits - 1))


def _quotient(sums: Integers, total: Integers) -> npt.NDArray[np.int16]:
    power = np.frexp(np.maximum(total, 1).astype(np.float64))[1].astype(np.int64) - 1
    power = np.maximum(power, 14)
    fraction_bits = numerics.TABLE_BITS + numerics.STEP_BITS
    fraction = np.maximum(((total << fraction_bits) >> power) - (1 << fraction_bits), 0)
    inverse = _interpolate(_RECIPROCAL, fraction)
    result = (((sums << 1) >> (power - 14)) * inverse + 2**23) >> 24
    limits = numerics.INT16_MIN, numerics.INT16_MAX
    return np.where(total == 0, 0, np.clip(result, *limits)).astype(np.int16)
