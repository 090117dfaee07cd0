"""Arena: one piece of memory for arrays whose lifetimes are known beforehand. No I/O.

Arrays that are never alive at the same time may share bytes. Offsets are found largest array first,
each in the tightest gap among those that are placed already and alive at the same time: "greedy by
size for offset calculation" of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
Inference", 2020, section 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes: arrays begin on a cache line


@dataclass(frozen=True, kw_only=True)
class Lifetime:
    """An array: bytes, and the first and the last step, inclusive, in which it is alive."""

    nbytes: int
    first: int
    last: int


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Where arrays lie.

    Attributes
    ----------
    offsets
        Of each array, in bytes.
    nbytes
        Of the arena: its high-water mark.
    """

    offsets: tuple[int, ...]
    nbytes: int


def plan_arena(lifetimes: Sequence[Lifetime], *, alignment: int = ALIGNMENT) -> Arena:
    """Return offsets, multiples of ``alignment``, such that arrays alive together do not overlap.

    Raises
    ------
    ValueError
        If a size is negative or a lifetime ends before it begins.
    """
    for one in lifetimes:
        if one.nbytes < 0 or one.last < one.first:
            raise ValueError(f"a lifetime must have bytes and an end after its start, not {one!r}")
    sizes = [-(-one.nbytes // alignment) * alignment for one in lifetimes]
    offsets = [0] * len(lifetimes)
    placed: list[int] = []  # by offset
    for index in sorted(range(len(lifetimes)), key=lambda i: (-sizes[i], lifetimes[i].first)):
        one = lifetimes[index]
        beside = [
            other
            for other in placed
            if lifetimes[other].first <= one.last and one.first <= lifetimes[other].last
        ]
        offsets[index] = _tightest([(offsets[i], sizes[i]) for i in beside], sizes[index])
        placed.append(index)
        placed.sort(key=offsets.__getitem__)
    ends = (offset + size for offset, size in zip(offsets, sizes, strict=True))
    return Arena(offsets=tuple(offsets), nbytes=max(ends, default=0))


def _tightest(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Return the start of the smallest gap between taken ranges, else the end of all."""
    end, best, found = 0, None, 0
    for offset, length in taken:
        gap = offset - end
        if gap >= size and (best is None or gap < best):
            best, found = gap, end
        end = max(end, offset + length)
    return end if best is None else found


def most_alive(lifetimes: Sequence[Lifetime], *, alignment: int = ALIGNMENT) -> int:
    """Return the most bytes that are alive in one step: no arena is smaller."""
    changes: dict[int, int] = {}
    for one in lifetimes:
        size = -(-one.nbytes // alignment) * alignment
        changes[one.first] = changes.get(one.first, 0) + size
        changes[one.last + 1] = changes.get(one.last + 1, 0) - size
    alive = most = 0
    for step in sorted(changes):
        alive += changes[step]
        most = max(most, alive)
    return most
