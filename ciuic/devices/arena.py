"""The arena of a device: one piece of memory for the results of all tasks.

A result's place is found when its task is submitted, see `ciuic.devices.places`; the values between
that a task needs have theirs beside it, for as long as the task runs. What users hold and what
tasks refer to are two storages: the place is given back when the users' is gone, though tasks in
the queue still refer to it. Those run before any that has the same bytes.
"""

from __future__ import annotations

import math
import sys
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ciuic.errors import OutOfMemory

from .array import DTYPES, DeviceArray, Event, Shape, Storage, check_dtype
from .base import Device, Kernel
from .places import Places, grown

VIEWS_KEPT = 4096  # of an arena's memory: making one anew takes longer than most small tasks
INT8 = np.dtype(np.int8)


Place = tuple[int, Shape, np.dtype[Any]]  # offset in the arena of an array, and what it is


class ArenaMemory(Protocol):
    """The memory; for the device's queue thread only.

    Attributes
    ----------
    nbytes
        How far it reaches.
    """

    nbytes: int

    def fit(self, nbytes: int) -> None:
        """Have it reach so far at least; its contents stay.

        Raises
        ------
        DeviceError
            If it cannot.
        """

    def view(self, place: Place) -> Any:
        """Return the back end's object of an array that lies there."""

    def drop(self) -> None:
        """Give the memory back."""


class Result(Storage):
    """A result as tasks refer to it; when its place has been given back, its bytes are others'.

    Attributes
    ----------
    place
        Where it is.
    between
        Places of the values between of the task that makes it.
    reach
        The bytes that the memory must have for that task.
    """

    __slots__ = ("between", "place", "reach", "taken")
    device: ArenaDevice

    def __init__(
        self, device: ArenaDevice, place: Place, between: Sequence[Place], reach: int
    ) -> None:
        self.device = device
        self.error = None
        self.nbytes = 0
        self.place = place
        self.between = between
        self.reach = reach
        self.taken = [place[0]]  # emptied when it is given back, which happens once

    @property
    def data(self) -> Any:
        """The part of the arena's memory; on the queue thread only."""
        return self.device.arena.view(self.place)

    @data.setter
    def data(self, _value: Any) -> None:
        """Kernels return what they were given."""

    def free(self) -> None:
        """Give the place back; a second call does nothing."""
        if self.taken:
            try:
                self.device.given.append(self.taken.pop())
            except IndexError:  # another thread was faster
                return

    def __del__(self) -> None:
        """Its place has been given back by then: by the `HeldResult` that it was made with."""


class HeldResult(Storage):
    """A result as users hold it: with the last of their handles its place is given back.

    Attributes
    ----------
    result
        The same as tasks refer to it.
    """

    __slots__ = ("for_tasks", "result")
    device: ArenaDevice

    def __init__(
        self, device: ArenaDevice, place: Place, between: Sequence[Place], reach: int
    ) -> None:
        self.device = device
        self.nbytes = 0
        self.result = Result(device, place, between, reach)
        self.for_tasks = DeviceArray(self.result, place[1], place[2])

    @property
    def data(self) -> Any:
        """The part of the arena's memory; on the queue thread only."""
        return self.result.data

    @data.setter
    def data(self, _value: Any) -> None:
        """It is the result's."""

    @property
    def error(self) -> BaseException | None:
        """What kept it from being computed."""
        return self.result.error

    @error.setter
    def error(self, error: BaseException | None) -> None:
        self.result.error = error

    def free(self) -> None:
        """Give the place back; a second call does nothing."""
        self.result.free()

    def __del__(self) -> None:
        if hasattr(self, "result"):  # an interrupt may come before __init__ is through
            self.result.free()


class ArenaDevice(Device):
    """A device with an arena. A back end calls `_open_arena` first, and `_fit` before each kernel.

    Attributes
    ----------
    statistics
        Among its counters ``arena_bytes``: where the last place ended that was taken since the
        last `reset_peak`.
    """

    _largest_buffer = sys.maxsize  # bytes that the arena may have, however much memory there is

    def _open_arena(self, memory: ArenaMemory, alignment: int) -> None:
        self.arena = memory
        self.arena_alignment = alignment
        self._arena_bytes = 0  # counted as used
        self._arena_top = 0  # of them, how many have been needed since the peak was reset
        self._arena_lock = threading.RLock()
        self._places = Places(alignment)
        # Places that nobody refers to any more; finalizers, which may run inside any lock, append.
        self.given: deque[int] = deque()
        self._between: Iterator[Place] = iter(())
        self._knows_between = type(self).sizes_between is not Device.sizes_between

    @property
    def kept_bytes(self) -> int:
        """Bytes of those in use that are the arena's."""
        return self._arena_bytes

    def reset_peak(self) -> None:
        """Begin to watch for the peak anew, and for that of the arena."""
        with self._arena_lock:
            super().reset_peak()
            self._arena_top = self.statistics.counters["arena_bytes"] = 0

    def adopt(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Return an array on the device from one that nobody will change: it goes to the arena."""
        check_dtype(array.dtype)
        attributes = {"value": array}
        nbytes = array.nbytes
        with self._arena_lock:
            output = self._new_result(array.shape, array.dtype, ())
            return self._enqueue("upload", self._fill, (), output, attributes, nbytes).output

    def _make(
        self,
        op: str,
        kernel: Kernel,
        inputs: Sequence[DeviceArray],
        shape: Shape,
        attributes: dict[str, Any],
    ) -> Event:
        """Queue a task whose result is an array of its own.

        No other thread's task comes between, since values between have bytes that whoever is next
        in the queue may have.
        """
        between: Sequence[int] = ()
        if self._knows_between:
            between = self.sizes_between(op, [array.shape for array in inputs], attributes)
        with self._arena_lock:
            output = self._new_result(shape, DTYPES[0], between)
            return self._enqueue(op, kernel, inputs, output, attributes)

    def _new_result(
        self, shape: Shape, dtype: np.dtype[Any], between: Sequence[int]
    ) -> DeviceArray:
        """Return an array with a place; call it with the lock, and queue its task at once."""
        given, places = self.given, self._places
        while given:
            places.give(given.popleft())
        offset, offsets, end = places.take_for_task(math.prod(shape) * dtype.itemsize, between)
        if end > self._arena_top:
            self._raise_top(offset, end)
        parts: Sequence[Place] = ()
        if between:
            parts = [(at, (one,), INT8) for at, one in zip(offsets, between, strict=True)]
        return DeviceArray(HeldResult(self, (offset, shape, dtype), parts, end), shape, dtype)

    def _raise_top(self, offset: int, end: int) -> None:
        """Take note of a task whose places end where none did before."""
        try:
            self._reserve_arena(end)
        except BaseException:
            self._places.give(offset)
            raise
        self._arena_top = end
        counters = self.statistics.counters
        counters["arena_bytes"] = max(end, counters.get("arena_bytes", 0))

    def _reserve_arena(self, end: int) -> None:
        """Count bytes up to ``end`` as used, and some more where there is room."""
        if end <= self._arena_bytes:
            return
        if end > self._largest_buffer:
            raise self._too_large(end)
        roomy = min(grown(end), self._largest_buffer)
        if self._take(roomy - self._arena_bytes):
            self._arena_bytes = roomy
            return
        self._charge(end - self._arena_bytes)
        self._arena_bytes = end

    def _too_large(self, nbytes: int) -> OutOfMemory:
        largest = self._largest_buffer
        return OutOfMemory(
            f"one buffer of {self.uri}", wanted=nbytes, available=largest, capacity=largest
        )

    def _trim(self) -> None:
        """Give the arena's memory back if no place in it is taken."""
        with self._arena_lock:
            while self.given:
                self._places.give(self.given.popleft())
            if not self._places and self._arena_bytes:
                nothing = DeviceArray(Storage(self, 0), (), DTYPES[0])
                dropped = self._enqueue("free", lambda *_: self.arena.drop(), (), nothing, {})
                self._await(dropped)
                self._forget_arena()

    def _forget_arena(self) -> None:
        self._freed.append(self._arena_bytes)
        self._arena_bytes = self._arena_top = 0

    def _enqueue(
        self,
        op: str,
        kernel: Kernel,
        inputs: Sequence[DeviceArray],
        output: DeviceArray,
        attributes: dict[str, Any],
        nbytes: int = 0,
    ) -> Event:
        for_tasks = []
        for array in (*inputs, output):
            known = array.storage.for_tasks
            if known is None:
                known = array
            elif known.shape != array.shape:
                known = DeviceArray(known.storage, array.shape, array.dtype)
            for_tasks.append(known)
        made = for_tasks.pop()
        event = super()._enqueue(op, kernel, for_tasks, made, attributes, nbytes)
        event.output = output  # which the task itself must not hold
        return event

    # On the queue thread.

    def _fit(self, output: DeviceArray) -> None:
        """Have the arena reach the places of the task that makes an array."""
        storage = output.storage
        if isinstance(storage, Result):  # or the task works in place
            if storage.reach > self.arena.nbytes:
                self.arena.fit(max(storage.reach, self._arena_bytes))
            self._between = iter(storage.between)

    def _next_between(self) -> Any:
        """Return the memory of the next value between, as `sizes_between` lists them."""
        return self.arena.view(next(self._between))

    def _fill(
        self, _inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
    ) -> None:
        value = attributes.pop("value")  # or the record of the task would keep it alive
        self._fit(output)
        if value.nbytes:
            self._write(output, value)

    @abstractmethod
    def _write(self, output: DeviceArray, value: npt.NDArray[Any]) -> None:
        """Copy an array's contents to where it lies in the arena."""
