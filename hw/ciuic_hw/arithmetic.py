"""Comparisons that a carry chain makes alone."""

from amaranth.hdl import Value

__all__ = ["less"]


def less(one: Value, other: Value) -> Value:
    """Return whether one value is less than another.

    It is the sign of their difference, so a single carry chain; synthesis makes of a comparison a
    chain and several levels of logic behind it.
    """
    return (one - other)[-1]
