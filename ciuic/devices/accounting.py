"""Accounting: how many bytes of a device's memory its arrays take, now and at most."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque

from ciuic.errors import OutOfMemory

from .failure import History


class Accounting(ABC):
    """The part of a `ciuic.devices.Device` that counts bytes."""

    uri: str
    capacity_bytes: int
    _history: History

    def _open_account(self) -> None:
        self._used = self._peak = 0
        self._memory_lock = threading.Lock()
        # Appended to by finalizers, which may run inside any lock.
        self._freed: deque[int] = deque()

    @property
    def used_bytes(self) -> int:
        """Bytes that arrays take now."""
        with self._memory_lock:
            self._settle_freed()
            return self._used

    @property
    def kept_bytes(self) -> int:
        """Bytes of those in use that no array needs: they stay for later tasks."""
        return 0

    @property
    def peak_bytes(self) -> int:
        """Most bytes that arrays took at one time since the last `reset_peak`."""
        with self._memory_lock:
            return self._peak

    def reset_peak(self) -> None:
        """Begin to watch for the peak anew."""
        with self._memory_lock:
            self._settle_freed()
            self._peak = self._used

    def _charge(self, nbytes: int) -> None:
        """Count bytes as used; raise `OutOfMemory` if there is no room for them."""
        if not self._take(nbytes):
            self.synchronize()  # tasks in the queue keep what they read, though nobody else does
            self._trim()
            if not self._take(nbytes):
                error = OutOfMemory(
                    self.uri,
                    wanted=nbytes,
                    available=self.capacity_bytes - self.used_bytes,
                    capacity=self.capacity_bytes,
                )
                raise self._history.fault(error, "an allocation")

    def _trim(self) -> None:
        """Give back memory that is kept in case it is needed again."""
        return  # none is, unless a back end does

    def _take(self, nbytes: int) -> bool:
        """Count bytes as used if there is room for them."""
        with self._memory_lock:
            self._settle_freed()
            if self._used + nbytes > self.capacity_bytes:
                return False
            self._used += nbytes
            self._peak = max(self._peak, self._used)
        return True

    @abstractmethod
    def synchronize(self) -> None: ...

    def _settle_freed(self) -> None:
        while self._freed:
            self._used -= self._freed.popleft()
