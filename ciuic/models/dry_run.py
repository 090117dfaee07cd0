"""A dry run: what a model would submit, written down instead of run.

The layers' own code runs, on arrays that have a shape and nothing in them, so that what a plan
says of operators, shapes and memory cannot differ from what runs. Only one thing depends on
contents: which experts a token is routed to. Here routing is balanced: token i of those
that are routed together gets the experts from ``i * top_k`` on, in a circle.

Not covered: that tasks in a device's queue keep their inputs a little longer than the code does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, DeviceManager, Weight
from ciuic.devices.array import Shape, Storage
from ciuic.devices.places import Places, grown
from ciuic.ops import OPERATORS
from ciuic.ops.operator import Cost
from ciuic.runtime import Runtime
from ciuic.scheduler.executor import HOST_URI, Input
from ciuic.tensor import CiuicTensor

FLOAT32 = np.dtype(np.float32)


class Call(NamedTuple):
    """One task.

    ``asked`` is the device that the layer is on, ``device`` the one that has a kernel for it.
    Tasks of one ``group`` do not depend on one another.
    """

    op: str
    asked: Device
    device: Device
    inputs: tuple[Shape, ...]
    output: Shape
    attributes: Mapping[str, Any]
    weights: tuple[Weight, ...]
    cost: Cost
    group: int | None = None


class Move(NamedTuple):
    """An array that goes from one device to another."""

    source: Device
    target: Device
    nbytes: int


@dataclass
class Recording:
    """What was submitted, in order, and what it takes.

    Attributes
    ----------
    calls, moves
        Tasks, and transfers between devices.
    cache_bytes
        URI -> bytes of caches.
    peak_bytes
        URI -> most bytes of activations at one time; where these have places in an arena, the
        arena's.
    places
        URI -> what is taken of an arena.
    """

    calls: list[Call] = field(default_factory=list)
    moves: list[Move] = field(default_factory=list)
    cache_bytes: Counter[str] = field(default_factory=Counter)
    peak_bytes: Counter[str] = field(default_factory=Counter)
    live_bytes: Counter[str] = field(default_factory=Counter)
    places: dict[str, Places] = field(default_factory=dict)


class _Block:
    """Bytes of one array, counted while anybody refers to it."""

    def __init__(self, recording: Recording, uri: str, nbytes: int) -> None:
        self._recording, self._uri, self._nbytes = recording, uri, nbytes
        recording.live_bytes[uri] += nbytes
        now = recording.live_bytes[uri]
        recording.peak_bytes[uri] = max(recording.peak_bytes[uri], now)

    def __del__(self) -> None:
        self._recording.live_bytes[self._uri] -= self._nbytes


class _InArena:
    """The place of one array, taken while anybody refers to it: as `ciuic.devices.places` has it.

    ``between`` are the bytes of values between, that the task has which makes the array.
    """

    def __init__(
        self, recording: Recording, uri: str, alignment: int, nbytes: int, between: Sequence[int]
    ) -> None:
        self._places = recording.places.setdefault(uri, Places(alignment))
        self._offset, _, end = self._places.take_for_task(nbytes, between)
        recording.peak_bytes[uri] = max(recording.peak_bytes[uri], grown(end))

    def __del__(self) -> None:
        self._places.give(self._offset)


class _Routed(DeviceArray):
    """Shares (t, experts) of a balanced routing."""

    __slots__ = ("top_k",)
    top_k: int

    def numpy(self) -> npt.NDArray[Any]:
        """Return the shares."""
        tokens, experts = self.shape
        shares = np.zeros(self.shape, np.float32)
        first = np.arange(tokens)[:, None] * self.top_k
        chosen = (first + np.arange(self.top_k)) % experts  # (t, top_k)
        np.put_along_axis(shares, chosen, np.float32(1 / self.top_k), axis=1)
        return shares


class DryRuntime(Runtime):
    """Writes down what it is told to run.

    Attributes
    ----------
    recording
        Of what was submitted since `start`.
    """

    def __init__(self, manager: DeviceManager) -> None:
        super().__init__(manager)
        self.recording = Recording()
        self._group: int | None = None
        self._groups = 0

    @contextmanager
    def together(self) -> Iterator[None]:
        """Mark the tasks that are submitted meanwhile as ones that do not wait for each other."""
        if self._group is not None:  # within others such
            yield
            return
        self._groups += 1
        self._group = self._groups
        try:
            yield
        finally:
            self._group = None

    def start(self) -> Recording:
        """Begin a new recording and return it."""
        self.recording = Recording()
        return self.recording

    def array(self, shape: Shape, device: Device) -> DeviceArray:
        """Return a float32 array with nothing in it, counted as an activation."""
        return self._counted(DeviceArray(Storage(device, 0), shape, FLOAT32))

    def run(
        self,
        op: str,
        inputs: Sequence[Input],
        *,
        device: Device | str = HOST_URI,
        **attributes: Any,
    ) -> DeviceArray:
        """Write a task down; its result has the right shape and no contents."""
        asked = self.device(device)
        target = asked if asked.supports(op, **attributes) else self.device(HOST_URI)
        copies = [self._moved(value, target) for value in inputs if isinstance(value, DeviceArray)]
        operator = OPERATORS[op]
        shape = operator.shape(*inputs, **attributes)
        shapes = tuple(tuple(value.shape) for value in inputs)
        between = target.sizes_between(op, shapes, attributes)
        if operator.in_place:
            assert isinstance(inputs[0], DeviceArray)
            output = inputs[0]
        elif op == "route_tokens":
            output = routed = _Routed(Storage(target, 0), shape, FLOAT32)
            routed.top_k = attributes["top_k"]
            self._counted(output, between)
        else:
            output = DeviceArray(Storage(target, 0), shape, FLOAT32)
            self._counted(output, between)
        del copies  # they live as long as the task
        self.recording.calls.append(
            Call(
                op,
                asked,
                target,
                shapes,
                shape,
                attributes,
                tuple(value for value in inputs if _is_weight(value)),
                operator.cost(*inputs, **attributes),
                self._group,
            )
        )
        return output

    def zeros(
        self,
        shape: tuple[int, ...],
        *,
        device: Device | str = HOST_URI,
        dtype: npt.DTypeLike = np.float32,
    ) -> DeviceArray:
        """Return an array of a cache: the only ones that begin as zeros."""
        on = self.device(device)
        array = DeviceArray(Storage(on, 0), shape, np.dtype(dtype))
        self.recording.cache_bytes[on.uri] += array.nbytes
        return array

    def _counted(self, array: DeviceArray, between: Sequence[int] = ()) -> DeviceArray:
        device, recording = array.device, self.recording
        if device.arena_alignment is None:
            array.storage.data = _Block(recording, device.uri, array.nbytes)
        else:
            where = (device.uri, device.arena_alignment)
            array.storage.data = _InArena(recording, *where, array.nbytes, between)
        return array

    def _moved(self, array: DeviceArray, target: Device) -> DeviceArray:
        if array.device is target:
            return array
        self.recording.moves.append(Move(array.device, target, array.nbytes))
        return self.array(array.shape, target)


def _is_weight(value: Input) -> TypeGuard[Weight]:
    if isinstance(value, DeviceArray | np.ndarray):
        return False
    return not isinstance(value, CiuicTensor) or value.dtype == FLOAT32  # int32: positions
