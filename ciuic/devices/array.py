"""Arrays on a device, the tasks that make them, and events that tell when they are there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError, TransferError

if TYPE_CHECKING:
    from .base import Device

Shape = tuple[int, ...]
DTYPES = (np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int8))


class Storage:
    """Memory of one device. Given back when the last array on it is gone, or by ``free``.

    ``data`` belongs to the back end and is set on the device's queue thread; ``error`` is what
    kept it from being computed.
    """

    __slots__ = ("__weakref__", "data", "device", "error", "nbytes")
    # The array on it as tasks refer to it, if that is another than users hold.
    for_tasks: DeviceArray | None = None

    def __init__(self, device: Device, nbytes: int) -> None:
        self.device = device
        self.nbytes = nbytes  # 0 once it has been given back
        self.data: Any = None
        self.error: BaseException | None = None

    def free(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self.nbytes:
            self.device.discard(self)

    def __del__(self) -> None:
        if hasattr(self, "nbytes"):  # an interrupt may come before __init__ is through
            self.free()


class DeviceArray:
    """A handle to an array on a device; its contents may still be in the making.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy dtype
    """

    __slots__ = ("__weakref__", "dtype", "shape", "storage")

    def __init__(self, storage: Storage, shape: Shape, dtype: np.dtype[Any]) -> None:
        self.storage = storage
        self.shape = shape
        self.dtype = dtype

    def __repr__(self) -> str:
        return f"DeviceArray({self.device.uri!r}, shape={self.shape}, dtype={self.dtype})"

    @property
    def device(self) -> Device:
        """The device that holds the array."""
        return self.storage.device

    @property
    def nbytes(self) -> int:
        """Bytes of the array's elements."""
        count = self.dtype.itemsize
        for size in self.shape:
            count *= size
        return count

    @property
    def data(self) -> Any:
        """The back end's object; only for the device itself, on its queue."""
        return self.storage.data

    def reshape(self, *shape: int) -> DeviceArray:
        """Return the same memory in another shape of as many elements.

        Raises
        ------
        ShapeError
            If the number of elements differs.
        """
        reshaped = DeviceArray(self.storage, shape, self.dtype)
        if reshaped.nbytes != self.nbytes:
            raise ShapeError(f"shape must have as many elements as {self.shape}, not {shape}")
        return reshaped

    def numpy(self) -> npt.NDArray[Any]:
        """Return the contents, read-only; wait for them."""
        return self.device.download(self)


class Event:
    """The completion of one task.

    Parameters
    ----------
    output
        What the task makes.
    signal
        Of the task.

    Attributes
    ----------
    output : DeviceArray
    """

    __slots__ = ("_signal", "output")

    def __init__(self, output: DeviceArray, signal: Signal) -> None:
        self.output = output
        self._signal = signal

    @property
    def done(self) -> bool:
        """Whether the task has ended, well or badly."""
        return self._signal.done

    def wait(self) -> DeviceArray:
        """Wait for the task; return its result or raise what made it fail."""
        if not self._signal.done:
            with self._signal.lock:
                pass
        if self.output.storage.error is not None:
            raise self.output.storage.error
        return self.output


class Signal:
    """Whether a task has ended."""

    __slots__ = ("done", "lock")

    def __init__(self) -> None:
        self.done = False
        self.lock = threading.Lock()  # held until the task is done
        self.lock.acquire()

    def set(self) -> None:
        """Mark the task as ended; called once, by the device."""
        self.done = True
        self.lock.release()


class Task(NamedTuple):
    """One entry of a device's queue: ``kernel(inputs, output, attributes)``, then the signal."""

    op: str
    kernel: Callable[[Sequence[DeviceArray], DeviceArray, dict[str, Any]], Any]
    inputs: Sequence[DeviceArray]
    output: DeviceArray
    attributes: dict[str, Any]
    signal: Signal
    nbytes: int = 0


def give_back(inputs: Sequence[DeviceArray], *_: Any) -> None:
    """Give the memory of an array back: the kernel of `Device.free`."""
    storage = inputs[0].storage
    storage.free()
    storage.error = TransferError("an array was used after its memory had been given back")


def check_dtype(dtype: np.dtype[Any]) -> None:
    """Raise `ShapeError` if arrays on devices cannot have a dtype."""
    if dtype not in DTYPES:
        raise ShapeError(f"dtype on a device must be float32, int32 or int8, not {dtype}")
