"""What flows between the stages of the softmax engine."""

from amaranth.hdl import signed
from amaranth.lib import data

from ciuic.abi import Format, numerics

__all__ = [
    "EXPONENTIAL",
    "RECIPROCAL",
    "RESULT_FORMATS",
    "SCORE",
    "SCORE_FORMATS",
    "extent_layout",
    "sum_bits",
]

SCORE_FORMATS = (Format.INT32, Format.INT16, Format.INT8)
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)

SCORE = signed(32)

# exp(-scale * distance) = mantissa * 2**-(halvings + MANTISSA_FRACTION)
EXPONENTIAL = data.StructLayout(
    {"mantissa": numerics.MANTISSA_FRACTION + 1, "halvings": range(numerics.EXPONENT_LIMIT)}
)

# 1 / sum = inverse * 2**-(norm + RECIPROCAL_FRACTION)
RECIPROCAL = data.StructLayout({"inverse": numerics.RECIPROCAL_FRACTION, "norm": 5})


def extent_layout(max_row: int) -> data.StructLayout:
    """Return the lengths of the rows of one operation, each less one element.

    ``first`` is the valid elements of the first row; each row after it has one more, up to
    ``limit``, the elements of a whole row.
    """
    return data.StructLayout({"first": range(max_row), "limit": range(max_row)})


def sum_bits(max_row: int) -> int:
    """Return the width of the sum of a row's exponentials, each at most one."""
    return (max_row << numerics.SUM_FRACTION).bit_length()
