"""What the runtime knows of a device: memory, a queue, and which kernels it has.

A device runs *kernels* of operators (`ciuic.ops`) on its own arrays. ``submit`` returns at once
with an `Event`; tasks of one device run in the order of their submission, on a thread of its own.
Arrays are opaque handles: only the device that made one may read it. Numpy arrays cross with
``upload`` and ``download``; a weight is uploaded once by ``hold`` and stays.

A back end overrides the underscore methods and nothing else; this class checks, counts and
accounts for memory. All underscore methods but ``_storage_bytes`` run on the queue thread.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from traceback import clear_frames
from types import TracebackType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ciuic.errors import (
    CiuicError,
    DeviceError,
    PlacementError,
)
from ciuic.ops import OPERATORS
from ciuic.quantize_int4 import Quantized
from ciuic.tensor import CiuicTensor

from .accounting import Accounting
from .array import (
    DTYPES,
    DeviceArray,
    Event,
    Shape,
    Signal,
    Storage,
    Task,
    check_dtype,
    give_back,
)
from .failure import History
from .planning import Planning
from .slots import Slots, SlotStorage
from .statistics import Observer, Span, Statistics, TaskRecord, watched

logger = logging.getLogger(__name__)

Kind = Literal["CPU", "GPU", "FPGA", "TPU"]
KINDS: tuple[Kind, ...] = ("CPU", "GPU", "FPGA", "TPU")
Weight = Quantized | CiuicTensor
Kernel = Callable[[Sequence[DeviceArray], DeviceArray, dict[str, Any]], Any]
_HOUSEKEEPING = frozenset(("free", "slots", "synchronize", "zeros"))  # that are no work of a model
_ON_LOST_DEVICES = _HOUSEKEEPING | {"download"}  # that may be tried there


class Device(Slots, Accounting, Planning, ABC):
    """A device that is open.

    Parameters
    ----------
    uri : str
        The name it was opened by.
    capacity_bytes : int
        Memory that arrays may take.

    Attributes
    ----------
    kind : str
        One of `KINDS`.
    name : str
        For people.
    emulated : bool
        Whether it stands in for hardware; such devices are chosen only when asked for.
    host_memory : bool
        Whether its memory is the host's, so that bytes need not move.
    arrays_on_host : bool
        Whether its arrays are, though weights need not be: tasks take and give arrays there.
    statistics : Statistics
    observers : list
        Called with a `TaskRecord` after each task and transfer, on the queue thread.
    watchers : list
        Called after each wait of the host for this device, on the thread that waited.
    """

    kind: Kind
    name: str
    emulated: bool
    host_memory: bool = False
    arrays_on_host: bool = False
    _drops = False  # whether ``_drop`` must see data that nobody uses any more

    def __init__(self, uri: str, capacity_bytes: int) -> None:
        self.uri = uri
        self.capacity_bytes = capacity_bytes
        self.statistics = Statistics()
        self.observers: list[Observer] = []
        self.watchers: list[Observer] = []
        self._open_account()
        # Appended to by finalizers, which may run inside any lock.
        self._dropped: deque[Any] = deque()
        self._held: weakref.WeakKeyDictionary[Any, DeviceArray] = weakref.WeakKeyDictionary()
        self._hold_lock = threading.Lock()
        self._record_lock = threading.Lock()  # the copy lane records too
        self._history = History(uri)
        self.streams = []
        self._kernels = self._load_kernels()
        self._closed = False
        self._cancelled = False
        self._queue_lock = threading.Lock()  # nothing comes into the queue behind its end
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name=f"ciuic {uri}", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri!r}>"

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    # Memory.

    def upload(self, value: npt.NDArray[Any] | Quantized) -> DeviceArray:
        """Return a copy of an array on the device; the caller may change the original at once.

        Raises
        ------
        ShapeError
            If the dtype is not float32, int32 or int8.
        OutOfMemory
            If the device has no room.
        """
        if isinstance(value, Quantized):
            return self._upload(value)
        return self._upload(np.array(value, order="C"))

    def adopt(self, array: npt.NDArray[Any]) -> DeviceArray:
        """Return an array on the device from one that nobody will change: no copy on the host."""
        return self._upload(array)

    def zeros(self, shape: Shape, dtype: npt.DTypeLike = np.float32) -> DeviceArray:
        """Return an array of zeros on the device."""
        output = self._allocate(shape, np.dtype(dtype))
        self._enqueue("zeros", self._zeros, (), output, {})
        return output

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Return the contents of an array, read-only; wait for them.

        Raises
        ------
        DeviceError
            If the device could not compute the array.
        """
        self._check_owner((array,))
        result = DeviceArray(Storage(self, 0), array.shape, array.dtype)
        event = self._enqueue("download", self._download, (array,), result, {}, array.nbytes)
        contents: npt.NDArray[Any] = self._await(event).storage.data
        return contents

    def free(self, array: DeviceArray) -> None:
        """Give an array's memory back, after the tasks submitted so far, though handles remain.

        Using the array afterwards raises `TransferError`.
        """
        self._check_owner((array,))
        result = DeviceArray(Storage(self, 0), (), DTYPES[0])
        self._enqueue("free", give_back, (array,), result, {})

    def discard(self, storage: Storage) -> None:
        """Take note that a storage is not used any more; called by `Storage`."""
        nbytes, storage.nbytes = storage.nbytes, 0
        if self._drops and storage.data is not None:
            self._dropped.append(storage.data)
        storage.data = None
        self._freed.append(nbytes)

    # Weights.

    def hold(self, weight: Weight) -> DeviceArray:
        """Return a weight's array on the device, uploaded the first time and kept."""
        key = weight.value if isinstance(weight, CiuicTensor) else weight
        array = self._held.get(key)
        if array is None:
            if (streamed := self._streamed(weight)) is not None:
                return streamed
            with self._hold_lock:
                array = self._held.get(key) or self._bring(weight)
                self._held[key] = array
        return array

    def holds(self, weight: Weight) -> bool:
        """Return whether a weight lies on the device."""
        key = weight.value if isinstance(weight, CiuicTensor) else weight
        return key in self._held

    def evict(self, weight: Weight) -> None:
        """Forget a weight; its memory is free when no task uses it any more."""
        key = weight.value if isinstance(weight, CiuicTensor) else weight
        self._held.pop(key, None)

    def weight_bytes(self, weight: Weight) -> int:
        """Return the bytes that a weight takes on this device."""
        return self._weight_bytes(weight)

    # Work.

    def supports(self, op: str, **attributes: Any) -> bool:
        """Return whether the device has a kernel for an operator with these attributes."""
        return op in self._kernels and self._accepts(op, attributes)

    def submit(self, op: str, inputs: Sequence[DeviceArray], **attributes: Any) -> Event:
        """Queue one operator and return at once.

        The result's handle, ``event.output``, may be used for further tasks of this device
        without waiting; an error then reaches everything computed from it.

        Raises
        ------
        PlacementError
            If the device has no kernel for the operator.
        ShapeError
            If the inputs do not fit the operator.
        OutOfMemory
            If there is no room for the result.
        """
        kernel = self._kernels.get(op)
        if kernel is None:
            raise PlacementError(f"{self.uri} has no kernel for {op!r}")
        for array in inputs:
            if array.storage.device is not self:
                self._check_owner(inputs)
        operator = OPERATORS[op]
        shape = operator.shape(*inputs, **attributes)
        if operator.in_place:
            return self._enqueue(op, kernel, inputs, inputs[0], attributes)
        return self._make(op, kernel, inputs, shape, attributes)

    def synchronize(self) -> None:
        """Wait until everything submitted so far is done and counted."""
        result = DeviceArray(Storage(self, 0), (), DTYPES[0])
        self._await(self._enqueue("synchronize", self._synchronize, (), result, {}))

    @property
    def closed(self) -> bool:
        """Whether the device has been closed."""
        return self._closed

    @property
    def lost(self) -> bool:
        """Whether the device has failed for good; opening it again may bring it back."""
        return self._history.lost is not None

    def close(self, *, cancel: bool = False) -> None:
        """Finish, or with ``cancel`` give up, what is queued and release the device."""
        if self._closed:
            return
        self._end_streams(finish=not cancel)
        with self._queue_lock:
            self._closed = True
            self._cancelled = cancel
            self._queue.put(None)
        self._thread.join()

    # The queue.

    def _enqueue(
        self,
        op: str,
        kernel: Kernel,
        inputs: Sequence[DeviceArray],
        output: DeviceArray,
        attributes: dict[str, Any],
        nbytes: int = 0,
    ) -> Event:
        signal = Signal()
        with self._queue_lock:
            if not self._closed:
                self._queue.put(Task(op, kernel, inputs, output, attributes, signal, nbytes))
                return Event(output, signal)
        raise self._history.fault(DeviceError(f"{self.uri} is closed"), op)

    def _make(
        self,
        op: str,
        kernel: Kernel,
        inputs: Sequence[DeviceArray],
        shape: Shape,
        attributes: dict[str, Any],
    ) -> Event:
        """Queue a task whose result is an array of its own."""
        output = self._result(op, inputs, shape, attributes)
        return self._enqueue(op, kernel, inputs, output, attributes)

    def _await(self, event: Event) -> DeviceArray:
        with watched(self.uri, self.watchers):
            return event.wait()

    def _serve(self) -> None:
        while (task := self._queue.get()) is not None:
            self._perform(task)
            del task  # or its arrays would live until the next task
        self._held.clear()
        try:
            self._close()
        except Exception as error:  # of a device that fails there is nothing more to release
            logger.warning("%s could not be closed properly: %s", self.uri, error)

    def _perform(self, task: Task) -> None:
        signal, output, error = task.signal, task.output, self._run(task)
        if error is not None:
            # Its traceback refers to the task, this frame included; whoever gets it may keep it.
            del task
            for one in (error, error.__cause__):
                if one is not None:
                    clear_frames(one.__traceback__)
            output.storage.error = error
            output.storage.free()
            del error
        signal.set()

    def _run(self, task: Task) -> BaseException | None:
        """Run a task; return what made it fail, or an earlier one that it needs."""
        try:
            if self._cancelled:
                raise DeviceError(f"{self.uri} was closed before {task.op} ran")
            while self._dropped:
                self._drop(self._dropped.popleft())
            for array in task.inputs:
                storage = array.storage
                if isinstance(storage, SlotStorage):
                    storage.wait()
                if storage.error is not None:
                    return storage.error
            if self._history.lost is not None and task.op not in _ON_LOST_DEVICES:
                self._history.check(task.op)
            start = time.perf_counter()
            output = task.output
            output.storage.data = task.kernel(task.inputs, output, task.attributes)
            self._finished(task, start, time.perf_counter() - start)
        except BaseException as error:  # it belongs to whoever waits for the result
            if not isinstance(error, CiuicError):
                logger.debug("%s failed on %s", task.op, self.uri, exc_info=True)
            shapes = tuple(array.shape for array in task.inputs)
            return self._history.fault(error, task.op, shapes)
        return None

    def _finished(self, task: Task, start: float, seconds: float) -> None:
        """Count a task that the kernel has done; override where it is only under way then."""
        if task.op not in _HOUSEKEEPING:
            self._record(task, start, seconds)

    def _record(self, task: Task, start: float, seconds: float) -> None:
        shapes = tuple([array.shape for array in task.inputs])
        program = task.attributes.get("program")
        op = task.op if program is None else program.name
        how = (task.attributes, start, seconds, task.nbytes, self._used, self._spans())
        self._tell(TaskRecord(self.uri, op, shapes, *how))

    def _tell(self, record: TaskRecord) -> None:
        with self._record_lock:
            self.statistics.add(record)
            self._history.add(record)
            for observer in self.observers:
                observer(record)

    # Memory accounting.

    def _allocate(self, shape: Shape, dtype: np.dtype[Any]) -> DeviceArray:
        array = DeviceArray(Storage(self, 0), tuple(shape), dtype)
        self._reserve(array.storage, array.nbytes)
        return array

    def _result(
        self, op: str, inputs: Sequence[DeviceArray], shape: Shape, attributes: dict[str, Any]
    ) -> DeviceArray:
        """Return the array that a task's result goes into."""
        return self._allocate(shape, DTYPES[0])

    def _reserve(self, storage: Storage, nbytes: int) -> None:
        self._charge(nbytes)
        storage.nbytes = nbytes

    def _bring(self, weight: Weight) -> DeviceArray:
        if isinstance(weight, Quantized):
            return self._upload(weight)
        remote = weight.value.remote
        if isinstance(remote, DeviceArray) and remote.device is self:
            return remote
        return self._upload(weight.value.host())

    def _upload(self, value: npt.NDArray[Any] | Quantized) -> DeviceArray:
        if not isinstance(value, Quantized):
            check_dtype(value.dtype)
        output = DeviceArray(Storage(self, 0), value.shape, value.dtype)
        self._reserve(output.storage, self._weight_bytes(value))
        self._enqueue("upload", self._upload_task, (), output, {"value": value}, value.nbytes)
        return output

    def _check_owner(self, arrays: Iterable[DeviceArray]) -> None:
        for array in arrays:
            if array.storage.device is not self:
                raise PlacementError(f"an array on {array.device.uri} must be moved to {self.uri}")

    # Kernels of the queue itself.

    def _upload_task(
        self, _inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> Any:
        value = attributes.pop("value")  # or the record of the task would keep it alive
        if isinstance(value, Quantized):
            return self._put_weight(value)
        return self._put(value)

    def _download(
        self, inputs: Sequence[DeviceArray], _output: DeviceArray, _attributes: dict[str, Any]
    ) -> npt.NDArray[Any]:
        array = inputs[0]
        contents = self._get(array).reshape(array.shape)
        contents.flags.writeable = False
        return contents

    def _synchronize(
        self, _inputs: Sequence[DeviceArray], _output: DeviceArray, _attributes: dict[str, Any]
    ) -> None:
        self._finish()

    # What a back end gives.

    @abstractmethod
    def _load_kernels(self) -> dict[str, Kernel]:
        """Return the kernels by operator name."""

    @abstractmethod
    def _put(self, value: npt.NDArray[Any]) -> Any:
        """Return the back end's object with an array's contents."""

    @abstractmethod
    def _put_weight(self, weight: Quantized) -> Any:
        """Return the back end's object for a weight, in the form that its linear kernel takes."""

    @abstractmethod
    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Return an array's contents on the host, as a fresh array or view."""

    @abstractmethod
    def _zeros(
        self, inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
    ) -> Any:
        """Return the back end's object with zeros for ``output``."""

    def _accepts(self, op: str, attributes: dict[str, Any]) -> bool:
        """Return whether the kernel of an operator can work with these attributes."""
        return True

    def _spans(self) -> tuple[Span, ...]:
        """Return what the hardware says that it did for the task that has just ended."""
        return ()

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        """Return the bytes that a weight or array takes here."""
        return weight.nbytes

    @abstractmethod
    def _drop(self, data: Any) -> None:
        """Release data that nobody uses any more; called if ``_drops`` is set."""

    @abstractmethod
    def _finish(self) -> None:
        """Wait for what kernels left under way."""

    @abstractmethod
    def _close(self) -> None:
        """Release the device."""
