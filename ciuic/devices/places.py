"""Places: which bytes of one piece of memory are taken, in the order of submission. No I/O.

A device runs its tasks in the order in which they are submitted. So whether a result's bytes may be
used again depends on that order alone, and not on what has run so far: once nobody can submit a
task that reads them, the next task that is submitted may have them, be the tasks before it done or
not. CUDA calls this stream-ordered allocation. A dry run that goes through the same submissions
finds the same places.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import accumulate

GROWTH_BYTES = 1 << 16  # the smallest step in which an arena grows


class Places:
    """Bytes that are taken and given back; each time the tightest gap.

    Parameters
    ----------
    alignment
        Of all places, in bytes.
    """

    def __init__(self, alignment: int) -> None:
        self.alignment = alignment
        self._taken: list[tuple[int, int]] = []  # offset and bytes, by offset

    def __len__(self) -> int:
        return len(self._taken)

    def take(self, nbytes: int) -> int:
        """Return the offset of a place; its bytes are no other's until it is given back."""
        size = self.size(nbytes)
        offset = tightest_gap(self._taken, size)
        insort(self._taken, (offset, size))
        return offset

    def give(self, offset: int) -> None:
        """Give the place at an offset back.

        Raises
        ------
        ValueError
            If none that is taken begins there.
        """
        index = bisect_left(self._taken, (offset, 0))
        if index == len(self._taken) or self._taken[index][0] != offset:
            raise ValueError(f"offset must be that of a place that is taken, not {offset!r}")
        del self._taken[index]

    def size(self, nbytes: int) -> int:
        """Return the bytes that a place for so many takes: whole units, one at least."""
        return max(1, -(-nbytes // self.alignment)) * self.alignment

    def take_for_task(self, nbytes: int, between: Sequence[int]) -> tuple[int, list[int], int]:
        """Take the place of a task's result, and find places that only the task itself uses.

        Parameters
        ----------
        nbytes, between
            Bytes of the result, and of each value between.

        Returns
        -------
        offset of the result, those of the values between, and where the last of all ends
        """
        offset = self.take(nbytes)
        end = offset + self.size(nbytes)
        if not between:
            return offset, [], end
        sizes = [self.size(one) for one in between]
        start = tightest_gap(self._taken, sum(sizes))
        offsets = list(accumulate(sizes[:-1], initial=start))
        # They are not taken: the next task may have them.
        return offset, offsets, max(end, start + sum(sizes))


def tightest_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """Return the start of the smallest gap of ``size`` bytes, else the end of all.

    ``taken`` are pairs of offset and bytes, by offset; they may overlap.
    """
    end, best, found = 0, None, 0
    for offset, length in taken:
        gap = offset - end
        if gap >= size and (best is None or gap < best):
            best, found = gap, end
        if offset + length > end:
            end = offset + length
    return end if best is None else found


def grown(end: int) -> int:
    """Return the bytes that an arena has when places reach to ``end``: whole steps.

    Steps are a sixteenth to an eighth of it: an arena seldom grows, and little is spare.
    """
    step = max(GROWTH_BYTES, 1 << end.bit_length() >> 4)
    return -(-end // step) * step
