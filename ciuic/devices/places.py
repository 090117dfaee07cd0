"""Places: which bytes of one piece of memory are taken, in the order of submission. No I/O.

A device runs its tasks in the order in which they are submitted. So whether a result's bytes may be
used again depends on that order alone, and not on what has run so far: once nobody can submit a
task that reads them, the next task that is submitted may have them, be the tasks before it done or
not. CUDA calls this stream-ordered allocation. A dry run that goes through the same submissions
finds the same places.
"""

from __future__ import annotations

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
        # What is not taken, below the end of what is: its bytes by offset, its offsets by end.
        self._gaps: dict[int, int] = {}
        self._before: dict[int, int] = {}
        self._end = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def take(self, nbytes: int) -> int:
        """Return the offset of a place; its bytes are no other's until it is given back."""
        size = self.size(nbytes)
        offset, length = self._tightest(size)
        if offset == self._end:
            self._end += size
        else:
            del self._gaps[offset]
            if length == size:
                del self._before[offset + size]
            else:
                self._gaps[offset + size] = length - size
                self._before[offset + length] = offset + size
        self._sizes[offset] = size
        return offset

    def give(self, offset: int) -> None:
        """Give the place at an offset back.

        Raises
        ------
        ValueError
            If none that is taken begins there.
        """
        size = self._sizes.pop(offset, None)
        if size is None:
            raise ValueError(f"offset must be that of a place that is taken, not {offset!r}")
        stop = offset + size
        start = self._before.pop(offset, offset)
        after = self._gaps.pop(stop, 0)
        stop += after
        if stop == self._end:
            self._gaps.pop(start, None)
            self._end = start
        else:
            self._gaps[start] = stop - start
            self._before[stop] = start

    def size(self, nbytes: int) -> int:
        """Return the bytes that a place for so many takes: whole units, one at least."""
        return -(-nbytes // self.alignment) * self.alignment or self.alignment

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
        start, _ = self._tightest(sum(sizes))
        offsets = list(accumulate(sizes[:-1], initial=start))
        # They are not taken: the next task may have them.
        return offset, offsets, max(end, start + sum(sizes))

    def _tightest(self, size: int) -> tuple[int, int]:
        """Return offset and bytes of the smallest gap of ``size`` or more, else where all ends."""
        found, best = self._end, 0
        for offset, length in self._gaps.items():
            if length == size:
                return offset, length
            if length > size and (length < best or not best):
                found, best = offset, length
        return found, best


def grown(end: int) -> int:
    """Return the bytes that an arena has when places reach to ``end``: whole steps.

    Steps are a sixteenth to an eighth of it: an arena seldom grows, and little is spare.
    """
    step = max(GROWTH_BYTES, 1 << end.bit_length() >> 4)
    return -(-end // step) * step
