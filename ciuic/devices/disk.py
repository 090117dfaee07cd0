"""Reading parts of files again and again into memory that stays, without filling the page cache.

What is read once a token and does not fit in memory is never in the page cache when it is needed.
There are three ways: around the page cache (``O_DIRECT``), through it, and by mapping the file. On
some disks and file systems the first is several times faster, on others slower or not possible; so
the ways are measured on the file itself.
"""

from __future__ import annotations

import errno
import mmap
import os
import time
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from ciuic.errors import TransferError

Method = Literal["direct", "read", "map"]
METHODS: tuple[Method, ...] = ("direct", "read", "map")
PAGE_NBYTES = 4096  # alignment that O_DIRECT asks for, on every file system met so far
SAMPLE_NBYTES = 16 << 20  # that each way reads of a file to be measured
ROUNDS = 3

Bytes = npt.NDArray[np.uint8]


class DiskReader:
    """Reads from one file.

    Parameters
    ----------
    path
        The file.
    method
        How; the fastest if None.

    Attributes
    ----------
    method
        How it reads.
    bytes_per_second
        Measured; None if the method was given.
    nbytes
        Of the whole file.
    """

    def __init__(self, path: Path, method: Method | None = None) -> None:
        self.path = path
        self.nbytes = path.stat().st_size
        self.bytes_per_second: float | None = None
        self._file: int | None = None
        self._map: mmap.mmap | None = None
        if method is None:
            method, self.bytes_per_second = fastest(path)
        self.method: Method = method
        flags = os.O_RDONLY | (os.O_DIRECT if method == "direct" else 0)
        self._file = os.open(path, flags)
        if method == "map":
            self._map = mmap.mmap(self._file, 0, access=mmap.ACCESS_READ)

    def read(self, start: int, nbytes: int, memory: mmap.mmap) -> Bytes:
        """Return bytes [start, start + nbytes) of the file, which lie in ``memory`` afterwards.

        Parameters
        ----------
        start, nbytes
            Which.
        memory
            Anonymous, of `room_for` ``nbytes`` at least.

        Raises
        ------
        TransferError
            If the file is shorter or cannot be read.
        """
        assert self._file is not None
        first = start // PAGE_NBYTES * PAGE_NBYTES
        stop = -(-(start + nbytes) // PAGE_NBYTES) * PAGE_NBYTES
        target = np.frombuffer(memory, np.uint8)
        try:
            if self._map is not None:
                end = min(stop, self.nbytes)
                target[: end - first] = np.frombuffer(self._map, np.uint8, end - first, first)
                self._map.madvise(mmap.MADV_DONTNEED, first, end - first)
                done = end - first
            else:
                done = self._read_all(memoryview(memory)[: stop - first], first)
            if self.method != "direct":
                os.posix_fadvise(self._file, first, stop - first, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            raise TransferError(f"{self.path} cannot be read ({error.strerror})") from error
        if first + done < start + nbytes:
            raise TransferError(
                f"{self.path} must have {start + nbytes:,} bytes, not {self.nbytes:,}"
            )
        return target[start - first : start - first + nbytes]

    def _read_all(self, target: memoryview, start: int) -> int:
        assert self._file is not None
        done = 0
        while done < len(target):
            got = os.preadv(self._file, [target[done:]], start + done)
            done += got
            if got == 0 or done % PAGE_NBYTES:  # the end of the file
                break
        return done

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._file is not None:
            os.close(self._file)
            self._file = None


def room_for(nbytes: int) -> int:
    """Return the bytes of memory that a part of ``nbytes`` is read into, whole pages round it."""
    return (-(-nbytes // PAGE_NBYTES) + 1) * PAGE_NBYTES


def drop_cached(path: Path) -> None:
    """Let the page cache forget a file, as far as nobody has it mapped and in use."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)


def fastest(path: Path) -> tuple[Method, float]:
    """Return the way to read a file that is fastest here, and its bytes per second.

    They take turns, since disks that are shared are fast for a while and slower afterwards.
    """
    seconds = dict.fromkeys(METHODS, 0.0)
    for turn in range(ROUNDS):
        for method in METHODS:
            one = measure(path, method, turn)
            seconds[method] += float("inf") if one is None else one
    method = min(METHODS, key=lambda one: seconds[one])
    return method, ROUNDS * min(SAMPLE_NBYTES, path.stat().st_size) / max(1e-9, seconds[method])


def measure(path: Path, method: Method, turn: int = 0) -> float | None:
    """Return the seconds of reading a sample that is not cached; None if that way does not work.

    Each way reads another part of the file in each turn, as far as it goes: what was read before
    may be in a cache below the operating system.
    """
    size = path.stat().st_size
    nbytes = min(SAMPLE_NBYTES, size)
    memory = mmap.mmap(-1, room_for(nbytes))
    np.frombuffer(memory, np.uint8)[::PAGE_NBYTES] = 1  # so that its pages are there
    try:
        reader = DiskReader(path, method)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return None
    try:
        drop_cached(path)
        start = (turn * len(METHODS) + METHODS.index(method)) * nbytes % (size - nbytes + 1)
        began = time.perf_counter()
        reader.read(start, nbytes, memory)
        return time.perf_counter() - began
    except TransferError:
        return None
    finally:
        reader.close()
