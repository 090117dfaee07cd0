"""Decoder: a token's way through all layers and the head, recorded as one program of the CPU.

Submitting some hundred operators a token costs more time than a small model's arithmetic. Where
every operator of a token runs on the CPU by a kernel in C, their sequence is always the same but
for the token's position; so it is recorded once a cache and then run as one task. Elsewhere (other
devices, other number formats, experts that are chosen by the token) `Decoder.submit` returns None
and the operators are submitted one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

import numpy as np

from ciuic.devices import Device, DeviceArray, Weight
from ciuic.devices.array import Storage
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.program import Placement, Program, Step
from ciuic.memory.arena import Lifetime, plan_arena
from ciuic.ops import OPERATORS
from ciuic.runtime import Runtime
from ciuic.scheduler.executor import Input
from ciuic.tensor import CiuicTensor

from .kv_cache import KvCache
from .placed import HOST, Placed

if TYPE_CHECKING:
    from .model import Model


class NotRecordable(Exception):
    """A token's operators cannot be a program."""


class Decoder:
    """Runs tokens as programs, one for each cache.

    Parameters
    ----------
    model
        Whose layers and head.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._programs: WeakKeyDictionary[KvCache, tuple[Hashable, Program | None]] = (
            WeakKeyDictionary()
        )

    def submit(self, token_id: int, cache: KvCache) -> DeviceArray | None:
        """Submit a token's program, which takes it into the cache; return its logits (1, vocab).

        None, and nothing done, if its operators cannot be a program.
        """
        device = self._model.runtime.device(HOST)
        if self._model.runtime.divisions:
            return None
        if not isinstance(device, CpuDevice) or not device.records("linear"):
            return None
        if device.streams:
            return None  # a program's weights stay where they are
        if any(self._model.runtime.device(on) is not device for on in self._devices()):
            return None  # before any cache is moved
        arrays = [layer.reserve(1, device) for layer in cache.layers]
        key = (self._placement(), *(id(keys) for keys, _ in arrays))
        known, program = self._programs.get(cache, (None, None))
        if known != key:
            program = self._record(device, cache)
            self._programs[cache] = (key, program)
        if program is None:
            return None
        hidden = self._model.embed([token_id])
        logits = device.submit_program(program, hidden, cache.length)
        for layer in cache.layers:
            layer.length += 1
        cache.token_ids.append(token_id)
        return logits

    def _devices(self) -> set[Device | str]:
        return {self._model.head_device, *(layer.device for layer in self._model.layers)}

    def _placement(self) -> Hashable:
        layers = self._model.layers
        formats = ((layer.device, layer.as_fpga, layer.attention) for layer in layers)
        return (self._model.head_device, *formats)

    def _record(self, device: CpuDevice, cache: KvCache) -> Program | None:
        lengths = [layer.length for layer in cache.layers]
        recorder = _Recorder(self._model.runtime, device)
        runtime = cast("Runtime", recorder)  # as far as layers use one
        x = device.zeros((1, self._model.hidden_size))
        position = device.zeros((1,), np.int32)
        try:
            hidden = x
            for layer, layer_cache in zip(self._model.layers, cache.layers, strict=True):
                hidden = layer.submit(
                    hidden,
                    runtime=runtime,
                    cache=layer_cache,
                    positions=CiuicTensor.from_device(position),
                )
            on = Placed(runtime, self._model.head_device)
            logits = self._model.network.logits(on, hidden)
        except NotRecordable:
            return None
        finally:
            for layer_cache, length in zip(cache.layers, lengths, strict=True):
                layer_cache.length = length
        return Program(x, position, recorder.steps, logits, recorder.arena(logits))


class _Recorder:
    """Takes the place of a runtime: writes operators down instead of running them."""

    def __init__(self, runtime: Runtime, device: CpuDevice) -> None:
        self._runtime = runtime
        self._device = device
        self.steps: list[Step] = []
        self._results: dict[Storage, int] = {}  # bytes of each

    def device(self, device: Device | str) -> Device:
        """Return a device by URI, or the device given; it must be the one that is recorded for."""
        found = self._runtime.device(device)
        if found is not self._device:
            raise NotRecordable
        return found

    def division(self, _weight: Weight) -> None:
        """Return that a weight is not divided: `Decoder.submit` has seen to it."""

    def home(self, _op: str, device: Device | str) -> Device:
        """Return the device that will run an operator; `run` refuses those that it cannot."""
        return self.device(device)

    def run(
        self, op: str, inputs: Sequence[Input], *, device: Device | str = HOST, **attributes: Any
    ) -> DeviceArray:
        """Write an operator down; return the place of its result."""
        if not self._device.records(op, **attributes):
            raise NotRecordable
        self.device(device)
        arrays = [self._runtime.place(value, self._device) for value in inputs]
        operator = OPERATORS[op]
        shape = operator.shape(*arrays, **attributes)
        result = arrays[0] if operator.in_place else self._place_for(shape)
        self.steps.append(Step(op, arrays, result, attributes))
        return result

    def arena(self, last: DeviceArray) -> Placement:
        """Return places for all results but the last, which goes to where the program's does."""
        steps = [*enumerate(self.steps)]
        first = {id(step.result.storage): at for at, step in reversed(steps)}
        until = {
            id(array.storage): at for at, step in steps for array in (*step.inputs, step.result)
        }
        storages = [storage for storage in self._results if storage is not last.storage]
        plan = plan_arena(
            [
                Lifetime(
                    nbytes=self._results[storage], first=first[id(storage)], last=until[id(storage)]
                )
                for storage in storages
            ]
        )
        parts = [
            (storage, slice(offset, offset + self._results[storage]))
            for storage, offset in zip(storages, plan.offsets, strict=True)
        ]
        return Placement(plan.nbytes, parts)

    def _place_for(self, shape: tuple[int, ...]) -> DeviceArray:
        array = DeviceArray(Storage(self._device, 0), shape, np.dtype(np.float32))
        self._results[array.storage] = array.nbytes
        return array
