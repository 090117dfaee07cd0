"""Places: which bytes of one piece of memory are taken, in the order of submission. No I/O.

A device runs its tasks in the order in which they are submitted. So whether a result's bytes may be
used again depends on that order alone, and not on what has run so far: once nobody can submit a
task that reads them, the next task that is submitted may have them, be the tasks before it done or
not. CUDA calls this stream-ordered allocation. A dry run that goes through the same submissions
finds the same places.
"""

from __future__ import annotations

from bisect import bisect_left
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
        self._sizes: dict[int, int] = {}  # of what is taken, by offset
        self._gaps: list[tuple[int, int]] = []  # offset and bytes, by offset
        self._end = 0  # of what is taken

    def __len__(self) -> int:
        return len(self._sizes)

    def take(self, nbytes: int) -> int:
        """Return the offset of a place; its bytes are no other's until it is given back."""
        size = self.size(nbytes)
        index = self._tightest(size)
        if index is None:
            offset = self._end
            self._end += size
        else:
            offset, length = self._gaps[index]
            if length == size:
                del self._gaps[index]
            else:
                self._gaps[index] = (offset + size, length - size)
        self._sizes[offset] = size
        return offset

    def give(self, offset: int) -> None:
        """Give the place at an offset back.

        Raises
        ------
        ValueError
            If none that is taken begins there.
        """
        if offset not in self._sizes:
            raise ValueError(f"offset must be that of a place that is taken, not {offset!r}")
        gaps, start, stop = self._gaps, offset, offset + self._sizes.pop(offset)
        index = bisect_left(gaps, (offset, 0))
        if index < len(gaps) and gaps[index][0] == stop:
            stop += gaps.pop(index)[1]
        if index and sum(gaps[index - 1]) == start:
            index -= 1
            start = gaps.pop(index)[0]
        if stop == self._end:
            self._end = start
        else:
            gaps.insert(index, (start, stop - start))

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
        end = offset + self._sizes[offset]
        if not between:
            return offset, [], end
        sizes = [self.size(one) for one in between]
        index = self._tightest(sum(sizes))
        start = self._end if index is None else self._gaps[index][0]
        offsets = list(accumulate(sizes[:-1], initial=start))
        # They are not taken: the next task may have them.
        return offset, offsets, max(end, start + sum(sizes))

    def _tightest(self, size: int) -> int | None:
        """Return which gap of ``size`` bytes or more is the smallest; None if there is none."""
        best, found = 0, None
        for index, (_, length) in enumerate(self._gaps):
            if length >= size and (found is None or length < best):
                best, found = length, index
        return found


def grown(end: int) -> int:
    """Return the bytes that an arena has when places reach to ``end``: whole steps.

    Steps are a sixteenth to an eighth of it: an arena seldom grows, and little is spare.
    """
    step = max(GROWTH_BYTES, 1 << end.bit_length() >> 4)
    return -(-end // step) * step
