"""Golden model of the attention engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import numerics

from .softmax import _EXP2, _RECIPROCAL, Integers, _interpolate

_LEAST = -256
_CAP = 63


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
    """Return the results (m, d_v) in units of a value over 2**ATTENTION_FRACTION."""
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
