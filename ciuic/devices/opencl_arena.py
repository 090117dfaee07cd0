"""The memory of an OpenCL device's arena (`ciuic.devices.arena`): one buffer, and parts of it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ciuic.errors import DeviceError

from .arena import VIEWS_KEPT, Place
from .opencl_runtime import device_errors, opencl


class ArenaBuffer:
    """The buffer; for the device's queue thread only.

    Parameters
    ----------
    uri
        Of the device, for errors.
    context, queue
        Of OpenCL.

    Attributes
    ----------
    nbytes
        Of it.
    """

    def __init__(self, uri: str, context: Any, queue: Any) -> None:
        self.nbytes = 0
        self._uri = uri
        self._context = context
        self._queue = queue
        self._buffer: Any = None
        self._lost = ""  # why its contents are
        self._views: dict[Place, Any] = {}

    def fit(self, nbytes: int) -> None:
        """Have the buffer reach so far at least; its contents stay.

        While it grows they are on the host, so that the device never holds more than was counted.

        Raises
        ------
        DeviceError
            If it cannot, now or before: what was in it is lost.
        """
        if self._lost:
            raise DeviceError(self._lost)
        cl, old, kept = opencl(), self._buffer, None
        if old is not None:
            if old.size >= nbytes:
                return
            kept = np.empty(old.size, np.uint8)
            cl.enqueue_copy(self._queue, kept, old, is_blocking=True)
            del old
            self.drop()
        try:
            buffer = cl.Buffer(self._context, cl.mem_flags.READ_WRITE, nbytes)
            if kept is not None:
                cl.enqueue_copy(self._queue, buffer, kept, is_blocking=True)
        except cl.Error as error:
            self._lost = f"{self._uri}: the arena of {nbytes:,} bytes could not grow: {error}"
            raise DeviceError(self._lost) from error
        self._buffer, self.nbytes = buffer, nbytes

    def view(self, place: Place) -> Any:
        """Return a part of the buffer."""
        found = self._views.get(place)
        if found is None:
            if self._lost:
                raise DeviceError(self._lost)
            if len(self._views) >= VIEWS_KEPT:
                self._views.clear()
            offset, shape, dtype = place
            nbytes = max(1, math.prod(shape) * dtype.itemsize)
            with device_errors(self._uri):
                found = self._views[place] = self._buffer.get_sub_region(offset, nbytes)
        return found

    def drop(self) -> None:
        """Give the memory back."""
        self._views.clear()
        self._buffer, self.nbytes = None, 0
