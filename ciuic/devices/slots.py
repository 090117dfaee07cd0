"""Slots: room on a device that weights stream through, and what a back end does with them.

A weight in a slot is an array like any other. It may be used before it has arrived: tasks wait for
it. When nothing refers to its storage any more, no task and no caller, the slot is free again.
Weights are brought on a thread of their own (`ciuic.memory.streaming`) while kernels run on the
device's queue thread; a back end must bear that in ``_stage`` and ``_unstage``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ciuic.errors import DeviceTimeout
from ciuic.quantize_int4 import Quantized

from .array import DeviceArray, Event, Storage
from .statistics import TaskRecord

if TYPE_CHECKING:
    from .base import Device

ARRIVAL_SECONDS = 120.0  # the longest that a task waits for a weight that is on its way


class WeightStream(Protocol):
    """Brings weights to a device again and again, as `ciuic.memory.streaming` does."""

    def use(self, weight: Any, /) -> DeviceArray | None:
        """Return the array of a weight that streams, on its way perhaps; None for others."""

    def close(self) -> None:
        """Bring nothing any more."""


@dataclass
class Slot:
    """Room for one weight.

    Attributes
    ----------
    memory
        The back end's.
    data
        The back end's object of the weight that is in it, or was in it last; None before.
    """

    memory: Any
    data: Any = None


class SlotStorage(Storage):
    """A weight that is in a slot, or on its way there.

    Parameters
    ----------
    device
        Where the slot is.
    release
        Called once when nobody refers to the storage any more, by a finalizer: it may run inside
        any lock.
    """

    __slots__ = ("arrived", "release")

    def __init__(self, device: Device, release: Callable[[], None]) -> None:
        super().__init__(device, 0)  # the slots' memory is accounted for as a whole
        self.release: Callable[[], None] | None = release
        self.arrived = threading.Event()

    def wait(self) -> None:
        """Wait until the weight is there, or what kept it from arriving is known.

        Raises
        ------
        DeviceTimeout
            If it does not arrive.
        """
        if not self.arrived.wait(ARRIVAL_SECONDS):
            raise DeviceTimeout(
                f"weight to stream to {self.device.uri}", seconds=ARRIVAL_SECONDS, status={}
            )

    def __del__(self) -> None:
        release = getattr(self, "release", None)
        if release is not None:
            release()


class Slots(ABC):
    """The part of a `ciuic.devices.Device` that has to do with slots."""

    uri: str
    streams: list[WeightStream]

    def open_slots(self, count: int, nbytes: int) -> tuple[DeviceArray, list[Slot]]:
        """Return slots of ``nbytes`` each, and what holds their memory as long as it lives.

        Raises
        ------
        OutOfMemory
            If the device has no room.
        """
        holder = self._allocate((count, nbytes), np.dtype(np.int8))

        def open_all(*_: Any) -> list[Any]:
            return [self._open_slot(nbytes) for _ in range(count)]

        memories = self._enqueue("slots", open_all, (), holder, {}).wait().storage.data
        return holder, [Slot(memory) for memory in memories]

    def files(self) -> Mapping[Path, int]:
        """Return the files that weights are read from while they stream, and their bytes."""
        return {}

    def stage(self, slot: Slot, weight: Any) -> Any:
        """Put a weight into a slot in place of the one before; return the back end's object.

        Called by one thread a slot, at the same time as kernels run.
        """
        data, slot.data = slot.data, None
        if data is not None:
            self._unstage(data)
        slot.data = self._stage(slot.memory, weight)
        return slot.data

    def moved(self, op: str, start: float, seconds: float, nbytes: int) -> None:
        """Count a transfer that did not go through the queue."""
        self._tell(TaskRecord(self.uri, op, (), {}, start, seconds, nbytes))

    def _streamed(self, weight: Any) -> DeviceArray | None:
        for stream in self.streams:
            if (array := stream.use(weight)) is not None:
                return array
        return None

    def _end_streams(self, *, finish: bool) -> None:
        if self.streams and finish:
            self.synchronize()  # what is queued may still wait for weights
        for stream in list(self.streams):
            stream.close()

    def _open_slot(self, nbytes: int) -> Any:
        """Return memory for a slot; called on the queue thread, given to ``_drop`` in a list."""
        return None

    def _stage(self, memory: Any, weight: Any) -> Any:
        """Return what a kernel takes of a weight, its contents being in a slot's memory.

        A back end that keeps no memory for slots makes a new object each time.
        """
        if isinstance(weight, Quantized):
            return self._put_weight(weight)
        return self._put(weight.value.host())

    def _unstage(self, data: Any) -> None:
        """Let go of what ``_stage`` returned; no task uses it any more."""
        return  # an object goes with its last reference

    @abstractmethod
    def synchronize(self) -> None: ...

    @abstractmethod
    def _tell(self, record: TaskRecord) -> None: ...

    @abstractmethod
    def _put_weight(self, weight: Quantized) -> Any: ...

    @abstractmethod
    def _put(self, value: Any) -> Any: ...

    @abstractmethod
    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray: ...

    @abstractmethod
    def _enqueue(
        self,
        op: str,
        kernel: Callable[..., Any],
        inputs: Sequence[DeviceArray],
        output: DeviceArray,
        attributes: dict[str, Any],
        nbytes: int = 0,
    ) -> Event: ...
