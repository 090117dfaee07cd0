"""Streaming: weights that pass through a few slots of a device, ahead of their use.

`Streaming` is a device's copy lane. Its thread asks `ciuic.memory.residency.Cycle` what comes next
whenever a slot is free, and brings it while the device computes with what has arrived. Tasks wait
for their weight and for nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Hashable, Sequence

from ciuic.devices import Device, DeviceArray, Weight
from ciuic.devices.slots import Slot, SlotStorage
from ciuic.errors import CiuicError, DeviceError

from .residency import Cycle

logger = logging.getLogger(__name__)


class Streaming:
    """Brings weights to a device in the order of their use, round and round.

    Parameters
    ----------
    device
        Where to; it asks here for weights that it does not hold.
    weights
        In the order of use; each once.
    slots
        How many weights may lie there at a time, those on their way included.
    ahead
        Whether to bring weights before they are asked for. False where the order says nothing,
        as with experts.

    Raises
    ------
    OutOfMemory
        If the device has no room for the slots.
    """

    def __init__(
        self, device: Device, weights: Sequence[Weight], slots: int, *, ahead: bool = True
    ) -> None:
        self._device = device
        self._weights: dict[Hashable, Weight] = {id(weight): weight for weight in weights}
        self._cycle = Cycle(list(self._weights) if ahead else [])
        self.slot_bytes = max(map(device.weight_bytes, weights))
        self._lock = threading.Lock()  # of what follows, for decisions only
        self._ahead: dict[Hashable, DeviceArray] = {}
        self._asked: deque[tuple[Weight, DeviceArray]] = deque()
        self._wanted = threading.Semaphore(0)  # counts ``_asked`` where nothing is brought ahead
        self._closed = False
        self._holder, opened = device.open_slots(slots, self.slot_bytes)
        self._free: queue.SimpleQueue[Slot | None] = queue.SimpleQueue()  # finalizers may put
        for slot in opened:
            self._free.put(slot)
        self._thread = threading.Thread(
            target=self._serve, name=f"ciuic {device.uri} copies", daemon=True
        )
        device.streams.append(self)
        self._thread.start()

    def use(self, weight: Weight) -> DeviceArray | None:
        """Return the array of a weight, which may be on its way; None if it does not stream here.

        The array must not be kept longer than tasks with it are submitted: it takes a slot.
        """
        key = id(weight)
        if self._weights.get(key) is not weight:
            return None
        with self._lock:
            if self._closed:
                raise DeviceError(f"weights stream to {self._device.uri} no more: it was closed")
            was_ahead, dropped = self._cycle.use(key)
            gone = [self._ahead.pop(other) for other in dropped]
            if was_ahead:
                return self._ahead.pop(key)
            array = self._array(weight)
            self._asked.append((weight, array))
        self._wanted.release()
        del gone  # outside of the lock: the slots are free now
        return array

    def close(self) -> None:
        """Bring nothing any more and give the slots back once no task uses them."""
        with self._lock:
            self._closed = True
            self._ahead.clear()
        self._free.put(None)
        self._wanted.release()
        self._thread.join()
        if self in self._device.streams:
            self._device.streams.remove(self)
        del self._holder

    # The copy lane.

    def _serve(self) -> None:
        while (slot := self._free.get()) is not None:
            chosen = self._next()
            if chosen is None:
                break
            weight, array = chosen
            del chosen
            self._bring(slot, weight, array)
            del weight, array  # or the slot would not be free before the next one
        with self._lock:
            for _, array in self._asked:
                _fail(array, DeviceError(f"{self._device.uri} was closed before a weight arrived"))
            self._asked.clear()

    def _next(self) -> tuple[Weight, DeviceArray] | None:
        """Return what to bring next; wait for a request if nothing is foreseen."""
        while True:
            with self._lock:
                if self._closed:
                    return None
                if self._asked:
                    return self._asked.popleft()
                key = self._cycle.next()
                if key is not None:
                    weight = self._weights[key]
                    array = self._ahead[key] = self._array(weight)
                    return weight, array
            self._wanted.acquire()

    def _array(self, weight: Weight) -> DeviceArray:
        return DeviceArray(SlotStorage(self._device, _nothing), weight.shape, weight.dtype)

    def _bring(self, slot: Slot, weight: Weight, array: DeviceArray) -> None:
        storage = array.storage
        assert isinstance(storage, SlotStorage)
        free = self._free
        storage.release = lambda: free.put(slot)
        start = time.perf_counter()
        try:
            storage.data = self._device.stage(slot, weight)
        except BaseException as error:  # it belongs to the tasks that need the weight
            if not isinstance(error, CiuicError):
                logger.debug("a weight did not arrive on %s", self._device.uri, exc_info=True)
            storage.error = error.with_traceback(None)  # which would keep the slot
        else:
            seconds = time.perf_counter() - start
            self._device.moved("upload", start, seconds, self._device.weight_bytes(weight))
        storage.arrived.set()


def _nothing() -> None:
    """Stand for the release of a slot that a weight has not got yet."""


def _fail(array: DeviceArray, error: BaseException) -> None:
    storage = array.storage
    assert isinstance(storage, SlotStorage)
    storage.error = error
    storage.arrived.set()
