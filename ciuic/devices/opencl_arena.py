"""The arena of the OpenCL device: one buffer for the results of all tasks.

A result's place is found when its task is submitted, see `ciuic.devices.places`; the values between
that a task needs have theirs beside it, for as long as the task runs. What users hold and what
tasks refer to are two storages: the place is given back when the users' is gone, though tasks in
the queue still refer to it. Those run before any that has the same bytes.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.errors import DeviceError, OutOfMemory

from .array import DeviceArray, Event, Shape, Storage
from .base import DTYPES, Device, Kernel, check_dtype
from .opencl_runtime import device_errors, opencl
from .places import Places, grown

VIEWS_KEPT = 4096


class ArenaBuffer:
    """The buffer; for the device's queue thread only.

    Parameters
    ----------
    uri
        Of the device, for errors.
    context, queue
        Of OpenCL.
    """

    def __init__(self, uri: str, context: Any, queue: Any) -> None:
        self._uri = uri
        self._context = context
        self._queue = queue
        self._buffer: Any = None
        self._lost = ""  # why its contents are
        self._views: dict[tuple[int, int], Any] = {}

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
        self._buffer = buffer

    def view(self, where: tuple[int, int]) -> Any:
        """Return a part of the buffer: offset and bytes."""
        found = self._views.get(where)
        if found is None:
            if self._lost:
                raise DeviceError(self._lost)
            if len(self._views) >= VIEWS_KEPT:
                self._views.clear()
            with device_errors(self._uri):
                found = self._views[where] = self._buffer.get_sub_region(*where)
        return found

    def drop(self) -> None:
        """Give the memory back."""
        self._views.clear()
        self._buffer = None


class Result(Storage):
    """A result as tasks refer to it; when its place has been given back, its bytes are others'.

    Attributes
    ----------
    between
        Offsets and bytes of the values between of the task that makes it.
    reach
        The bytes that the buffer must have for that task.
    """

    __slots__ = ("_buffer", "_given", "_place", "_where", "between", "reach")

    def __init__(
        self,
        device: ArenaDevice,
        buffer: ArenaBuffer,
        given: deque[int],
        where: tuple[int, int],
        between: Sequence[tuple[int, int]],
        reach: int,
    ) -> None:
        self._buffer = buffer
        self._given = given
        self._place = [where[0]]  # emptied when it is given back, which happens once
        self._where = where
        self.between = between
        self.reach = reach
        super().__init__(device, 0)

    @property
    def data(self) -> Any:
        """The part of the arena's buffer; on the queue thread only."""
        return self._buffer.view(self._where)

    @data.setter
    def data(self, _value: Any) -> None:
        """Kernels return what they were given."""

    def free(self) -> None:
        """Give the place back; a second call does nothing."""
        try:
            self._given.append(self._place.pop())
        except IndexError:
            return


class HeldResult(Storage):
    """A result as users hold it: with the last of their handles its place is given back."""

    __slots__ = ("result",)

    def __init__(self, result: Result) -> None:
        self.result = result
        super().__init__(result.device, 0)

    @property
    def data(self) -> Any:
        """The part of the arena's buffer; on the queue thread only."""
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
        if error is not None:
            self.result.error = error

    def free(self) -> None:
        """Give the place back; a second call does nothing."""
        self.result.free()


class ArenaDevice(Device):
    """A device with an arena. A back end calls `_open_arena` first, and `_fit` before each kernel.

    Attributes
    ----------
    statistics
        Among its counters ``arena_bytes``: where the last place ever taken ended.
    """

    _cl_queue: Any
    _largest_buffer: int

    def _open_arena(self, uri: str, context: Any, alignment: int) -> None:
        self.arena_alignment = alignment
        self._arena = ArenaBuffer(uri, context, self._cl_queue)
        self._arena_bytes = 0  # counted as used
        self._arena_top = 0  # of them, how many have been needed
        self._arena_lock = threading.RLock()
        self._places = Places(alignment)
        # Places that nobody refers to any more; finalizers, which may run inside any lock, append.
        self._given: deque[int] = deque()
        self._between: Iterator[tuple[int, int]] = iter(())

    def submit(self, op: str, inputs: Sequence[DeviceArray], **attributes: Any) -> Event:
        """Queue one operator and return at once, as `Device.submit`.

        No other thread's task comes between, since values between have bytes that whoever is next
        in the queue may have.
        """
        with self._arena_lock:
            return super().submit(op, inputs, **attributes)

    def adopt(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Return an array on the device from one that nobody will change: it goes to the arena."""
        check_dtype(array.dtype)
        output = self._new_result(array.shape, array.dtype, ())
        attributes = {"value": array}
        return self._enqueue("upload", self._fill, (), output, attributes, array.nbytes).output

    def _result(
        self, op: str, inputs: Sequence[DeviceArray], shape: Shape, attributes: dict[str, Any]
    ) -> DeviceArray:
        between = self.sizes_between(op, [array.shape for array in inputs], attributes)
        return self._new_result(shape, DTYPES[0], between)

    def _new_result(
        self, shape: Shape, dtype: np.dtype[Any], between: Sequence[int]
    ) -> DeviceArray:
        result = self._place(math.prod(shape) * dtype.itemsize, between)
        return DeviceArray(HeldResult(result), tuple(shape), dtype)

    def _place(self, nbytes: int, between: Sequence[int]) -> Result:
        size = self._places.size
        with self._arena_lock:
            self._settle_given()
            offset, offsets, end = self._places.take_for_task(nbytes, between)
            if end > self._arena_top:
                self._raise_top(offset, end)
        parts = [(at, size(one)) for at, one in zip(offsets, between, strict=True)]
        return Result(self, self._arena, self._given, (offset, size(nbytes)), parts, end)

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
        """Give the arena's buffer back if no place in it is taken."""
        with self._arena_lock:
            self._settle_given()
            if not self._places and self._arena_bytes:
                nothing = DeviceArray(Storage(self, 0), (), DTYPES[0])
                dropped = self._enqueue("free", lambda *_: self._arena.drop(), (), nothing, {})
                self._await(dropped)
                self._forget_arena()

    def _forget_arena(self) -> None:
        self._freed.append(self._arena_bytes)
        self._arena_bytes = self._arena_top = 0

    def _settle_given(self) -> None:
        while self._given:
            self._places.give(self._given.popleft())

    def _enqueue(
        self,
        op: str,
        kernel: Kernel,
        inputs: Sequence[DeviceArray],
        output: DeviceArray,
        attributes: dict[str, Any],
        nbytes: int = 0,
    ) -> Event:
        operands = [_for_task(array) for array in inputs]
        event = super()._enqueue(op, kernel, operands, _for_task(output), attributes, nbytes)
        return event if event.output is output else event.handing(output)

    # On the queue thread.

    def _fit(self, output: DeviceArray) -> None:
        """Have the arena reach the places of the task that makes an array."""
        if isinstance(output.storage, Result):
            self._arena.fit(max(output.storage.reach, self._arena_bytes))
            self._between = iter(output.storage.between)

    def _next_between(self) -> Any:
        """Return the memory of the next value between, as `sizes_between` lists them."""
        return self._arena.view(next(self._between))

    def _fill(
        self, _inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
    ) -> None:
        value = np.ascontiguousarray(attributes.pop("value"))
        with device_errors(self.uri):
            self._fit(output)
            if value.nbytes:
                opencl().enqueue_copy(self._cl_queue, output.data, value, is_blocking=True)


def _for_task(array: DeviceArray) -> DeviceArray:
    """Return an array as tasks refer to it."""
    storage = array.storage
    if isinstance(storage, HeldResult):
        return DeviceArray(storage.result, array.shape, array.dtype)
    return array
