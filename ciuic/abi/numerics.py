"""The numbers that the overlay computes with: integer ranges and the fixed point of the softmax.

The softmax engine evaluates, for a row of integers x and a scale s > 0,

    p[j] = exp(s * (x[j] - max(x))) / sum(exp(s * (x - max(x))))

in these steps; `ciuic.reference.softmax` is the same arithmetic in numpy and derives its error.

=============  ==================================================================================
distance       d = max - x, DISTANCE_BITS, exact
scaled         u = min((d << PRE_SHIFT) >> shift, 2**SCALED_BITS - 1)
exponent       t = (u * multiplier) >> POST_SHIFT, EXPONENT_FRACTION fraction bits; from
               EXPONENT_LIMIT on the element counts as zero
mantissa       2**-frac(t) by `exp2_table` and linear interpolation, MANTISSA_FRACTION fraction
               bits
sum            of mantissa >> int(t), SUM_FRACTION fraction bits
reciprocal     of the sum, normalized to [1, 2), by `reciprocal_table` and linear interpolation,
               RECIPROCAL_FRACTION fraction bits
probability    mantissa * reciprocal >> shifts, PROBABILITY_FRACTION fraction bits
result         rounded to 16 or 8 fraction bits; the remainder of the rounding is carried along the
               row, so that the results of a row sum to what its probabilities sum to
=============  ==================================================================================

Results are unsigned fractions of 2**16 (Q0_16) or 2**8 (Q0_8), not of 2**16 - 1 or 2**8 - 1: a
consumer then scales by a shift. One itself is not representable and saturates to the largest
fraction, which costs one unit in the last place.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

INT8_MIN, INT8_MAX = -128, 127
INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1

# INT4 weights: groups along K share a signed scale per column. A group's sum (at most 2**15) times
# a scale of at most 2**15 - 1, summed over at most 512 groups, fits into the accumulators, so that
# all sums are exact; the result is the sum over 2**W4_SHIFT, rounded half to even and saturated.
W4_MIN, W4_MAX = -8, 7
W4_GROUP = 32
W4_SCALE_BITS = 16
W4_SCALE_MAX = 2**15 - 1
W4_SHIFT = 8
W4_MAX_K = 512 * W4_GROUP
ACCUMULATOR_BITS = 40

# Requantization: round_half_even((sum + bias) * multiplier / 2**shift), INT8 saturated.
REQUANT_MULTIPLIER_BITS = 16
REQUANT_MAX_SHIFT = 47

DISTANCE_BITS = 32  # between two INT32
SCALED_BITS = 24  # with the multiplier's 17 bits one DSP48 (25 x 18, signed)
MULTIPLIER_BITS = 17
PRE_SHIFT = 23
MAX_SHIFT = 55  # every distance becomes zero: the row is uniform
POST_SHIFT = 16
EXPONENT_FRACTION = 18
EXPONENT_LIMIT = 32  # 2**-32 of the largest element is far below a unit of any result
MANTISSA_FRACTION = 17
SUM_FRACTION = 30
RECIPROCAL_FRACTION = 17
PROBABILITY_FRACTION = 26

TABLE_BITS = 8  # entries of a table, as a power of two
STEP_BITS = EXPONENT_FRACTION - TABLE_BITS  # position between two entries
SLOPE_BITS = 9

RESULT_FRACTION_16 = 16
RESULT_FRACTION_8 = 8
# An 8-bit result may be a whole unit off by its rounding, which leaves nothing for the error of the
# probability. So probabilities closer to a unit, one or more, than their error are rounded to it:
# SNAP_8 from a large number of units on, smaller by a step from a medium one on, by two below it.
SNAP_8 = 2 ** (PROBABILITY_FRACTION - 14)
SNAP_8_STEP = 4
SNAP_8_LARGE = 16
SNAP_8_MEDIUM = 4

# Attention: keys are taken in blocks of the array's columns. See `ciuic.reference.attention`.
PROBABILITY_BITS = 7  # of a probability relative to the octave of its block: an INT8 activation
ATTENTION_GUARD = 8  # fraction bits of the sums of probabilities and of values
ATTENTION_SUM_BITS = 32  # of the sum of probabilities
ATTENTION_FRACTION = 8  # of a result, in units of a value

Table = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class SoftmaxScale:
    """A scale as descriptors hold it: scale * log2(e) = multiplier * 2**(-11 - shift).

    Parameters
    ----------
    multiplier
        From 2**16 to 2**17 - 1.
    shift
        From 0 to `MAX_SHIFT`.

    Raises
    ------
    ValueError
        If a field is out of range.
    """

    multiplier: int
    shift: int

    def __post_init__(self) -> None:
        if self.multiplier >> (MULTIPLIER_BITS - 1) != 1:
            raise ValueError(
                f"multiplier must be from {1 << (MULTIPLIER_BITS - 1)} to "
                f"{(1 << MULTIPLIER_BITS) - 1}, not {self.multiplier!r}"
            )
        if not 0 <= self.shift <= MAX_SHIFT:
            raise ValueError(f"shift must be from 0 to {MAX_SHIFT}, not {self.shift!r}")

    @classmethod
    def encode(cls, scale: float) -> SoftmaxScale:
        """Return the nearest scale; ``scale`` multiplies the integer scores before exp.

        Beyond the ends of the range nothing changes in the results: larger scales leave only the
        largest elements, smaller ones make every row uniform.
        """
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"scale must be a finite number above 0, not {scale!r}")
        fraction, exponent = math.frexp(min(scale, _LARGE_SCALE) * math.log2(math.e))
        multiplier = round(fraction * 2**MULTIPLIER_BITS)
        if multiplier == 2**MULTIPLIER_BITS:
            multiplier, exponent = multiplier // 2, exponent + 1
        shift = _SHIFT_OF_HALF - exponent
        if shift < 0:
            return cls(2 ** (MULTIPLIER_BITS - 1), 0)
        return cls(multiplier, min(shift, MAX_SHIFT))

    @property
    def value(self) -> float:
        """The scale that the fields stand for."""
        exponent = _SHIFT_OF_HALF - MULTIPLIER_BITS - self.shift
        return math.ldexp(self.multiplier, exponent) / math.log2(math.e)


_LARGE_SCALE = 64.0  # leaves only the largest elements, as every larger scale does
# The shift with which a multiplier of fraction * 2**MULTIPLIER_BITS means that fraction.
_SHIFT_OF_HALF = PRE_SHIFT + MULTIPLIER_BITS - POST_SHIFT - EXPONENT_FRACTION


def _with_slopes(values: list[int]) -> Table:
    return tuple((here, here - there) for here, there in itertools.pairwise(values))


def exp2_table() -> Table:
    """Return (value, decrease to the next) of 2**-f at f = k / 2**TABLE_BITS, as mantissas."""
    count = 2**TABLE_BITS
    return _with_slopes([round(2.0 ** (MANTISSA_FRACTION - k / count)) for k in range(count + 1)])


def reciprocal_table() -> Table:
    """Return (value, decrease to the next) of 1 / (1 + k / 2**TABLE_BITS).

    The first value is one unit less than one, which saves a bit of the multiplier.
    """
    count = 2**TABLE_BITS
    one = 2**RECIPROCAL_FRACTION
    return _with_slopes([min(round(one * count / (count + k)), one - 1) for k in range(count + 1)])
