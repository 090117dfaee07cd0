"""The memory of the CPU's arena (`ciuic.devices.arena`): pages of the host, and arrays in them."""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.errors import DeviceError

from .arena import VIEWS_KEPT, Place

PIECE_NBYTES = 1 << 20  # that is copied at a time while the memory grows


class HostArena:
    """The pages; for the device's queue thread only.

    Parameters
    ----------
    uri
        Of the device, for errors.

    Attributes
    ----------
    nbytes
        Of them.
    address
        Of the first.
    """

    def __init__(self, uri: str) -> None:
        self.nbytes = self.address = 0
        self._uri = uri
        self._pages: mmap.mmap | None = None
        self._views: dict[Place, npt.NDArray[Any]] = {}

    def fit(self, nbytes: int) -> None:
        """Have the memory reach so far at least; its contents stay.

        They move a piece at a time, so that hardly more is in use than was counted.

        Raises
        ------
        DeviceError
            If the host has no more; the contents are where they were.
        """
        if nbytes <= self.nbytes:
            return
        try:
            pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise DeviceError(
                f"{self._uri}: the arena of {nbytes:,} bytes could not grow: {error}"
            ) from error
        if self._pages is not None:
            for start in range(0, self.nbytes, PIECE_NBYTES):
                count = min(PIECE_NBYTES, self.nbytes - start)
                pages[start : start + count] = self._pages[start : start + count]
                _release(self._pages, start, count)
        self._views.clear()
        self._pages, self.nbytes = pages, nbytes
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(pages))

    def view(self, place: Place) -> npt.NDArray[Any]:
        """Return the array that lies somewhere, to be written to and read."""
        found = self._views.get(place)
        if found is None:
            if len(self._views) >= VIEWS_KEPT:
                self._views.clear()
            assert self._pages is not None
            offset, shape, dtype = place
            found = self._views[place] = np.ndarray(shape, dtype, self._pages, offset)
        return found

    def drop(self) -> None:
        """Give the memory back."""
        if self._pages is not None:
            _release(self._pages, 0, self.nbytes)
        self._views.clear()
        self._pages, self.nbytes, self.address = None, 0, 0


def _release(pages: mmap.mmap, start: int, count: int) -> None:
    """Give pages back at once, though an array may still be there that nobody will read."""
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED, start, count)
