"""Accounting for the one buffer in which the operands and results of all tasks of a board cross."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ciuic.devices import Device, DeviceArray
from ciuic.devices.array import DTYPES, Shape, Storage
from ciuic.errors import OutOfMemory

from .overlay import Overlay


class StagedDevice(Device):
    """A device whose tasks have their operands in `Overlay`'s buffer.

    Attributes
    ----------
    overlay
    statistics
        Among its counters ``arena_bytes``: the most that the buffer took.
    """

    overlay: Overlay

    @property
    def kept_bytes(self) -> int:
        """Bytes of those in use that are the buffer's."""
        return self._staging_bytes

    def _open_staging(self) -> None:
        self._staging_bytes = 0  # counted as used
        self._staging_lock = threading.Lock()
        self._growth_lock = threading.Lock()  # held while the buffer is to grow
        self.overlay.count_staging(self._claim_staging)

    def _result(
        self, op: str, inputs: Sequence[DeviceArray], shape: Shape, attributes: dict[str, Any]
    ) -> DeviceArray:
        """Count what the task's operands and results cross in; it serves all other tasks too."""
        wanted = self.staging_bytes(op, [array.shape for array in inputs])
        if wanted > self._staging_bytes:
            with self._growth_lock:
                more = max(0, wanted - self._staging_bytes)
                self._charge(more)
                self._count_staging(wanted, more)
        return super()._result(op, inputs, shape, attributes)

    def _claim_staging(self, nbytes: int) -> None:
        """Count the buffer, which is about to grow; on the queue thread."""
        more = nbytes - self._staging_bytes
        if more > 0:  # than any task was known to need
            self._claim(more)
            self._count_staging(nbytes, more)
        counters = self.statistics.counters
        counters["arena_bytes"] = max(nbytes, counters.get("arena_bytes", 0))

    def _claim(self, nbytes: int) -> None:
        """Count bytes as used, on the queue thread: it cannot wait for others to be given back."""
        if not self._take(nbytes):
            available = self.capacity_bytes - self.used_bytes
            raise OutOfMemory(
                self.uri, wanted=nbytes, available=available, capacity=self.capacity_bytes
            )

    def _count_staging(self, nbytes: int, taken: int) -> None:
        """Have ``nbytes`` counted; ``taken`` more were, some of them by another thread as well."""
        with self._staging_lock:
            before = self._staging_bytes
            self._staging_bytes = max(before, nbytes)
            spare = taken - (self._staging_bytes - before)
        if spare:
            self._freed.append(spare)

    def _trim(self) -> None:
        """Give the buffer back, unless it is for its growth that room is wanted."""
        if not self._growth_lock.acquire(blocking=False):
            return
        try:
            nothing = DeviceArray(Storage(self, 0), (), DTYPES[0])
            self._await(self._enqueue("free", self._release_staging, (), nothing, {}))
        finally:
            self._growth_lock.release()

    def _release_staging(self, *_: Any) -> None:
        self.overlay.release_staging()
        self._forget_staging()

    def _forget_staging(self) -> None:
        """Count the buffer no longer; on the queue thread."""
        with self._staging_lock:
            freed, self._staging_bytes = self._staging_bytes, 0
        self._freed.append(freed)
