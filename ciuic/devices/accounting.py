"""Accounting: how many bytes of a device's memory its arrays take, now and at most."""

from __future__ import annotations

import threading
from collections import deque


class Accounting:
    """The part of a `ciuic.devices.Device` that counts bytes."""

    capacity_bytes: int

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
    def peak_bytes(self) -> int:
        """Most bytes that arrays took at one time since the last `reset_peak`."""
        with self._memory_lock:
            return self._peak

    def reset_peak(self) -> None:
        """Begin to watch for the peak anew."""
        with self._memory_lock:
            self._settle_freed()
            self._peak = self._used

    def _take(self, nbytes: int) -> bool:
        """Count bytes as used if there is room for them."""
        with self._memory_lock:
            self._settle_freed()
            if self._used + nbytes > self.capacity_bytes:
                return False
            self._used += nbytes
            self._peak = max(self._peak, self._used)
        return True

    def _settle_freed(self) -> None:
        while self._freed:
            self._used -= self._freed.popleft()
