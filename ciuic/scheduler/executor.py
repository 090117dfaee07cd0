"""Executor: runs operators on devices. The only file of the scheduler that touches devices.

An operator that a device has no kernel for runs on the host CPU; `Executor.fallbacks` counts
these, so that they are visible in every report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, DeviceManager
from ciuic.devices.statistics import Observer
from ciuic.errors import UsageError
from ciuic.expression import Program, softmax_scale
from ciuic.ops import OPERATORS, CustomOperator, registered_operator
from ciuic.quantize_int4 import Quantized
from ciuic.tensor import CiuicTensor

HOST_URI = "cpu"
Input = DeviceArray | CiuicTensor | Quantized | npt.NDArray[Any]


class Executor:
    """Places inputs, submits tasks and keeps count of what ran elsewhere than asked.

    Parameters
    ----------
    manager : DeviceManager
        Opens the devices that are named by URI.
    host_lanes : bool
        Whether the host does for each device what that has no kernel for in a queue of its own
        (``cpu:1``, ``cpu:2``, ...), and not in turn with layers that are on the host.

    Attributes
    ----------
    fallbacks : Counter
        (URI of the device asked for, operator) -> tasks that ran on the host instead.
    """

    def __init__(self, manager: DeviceManager, *, host_lanes: bool = False) -> None:
        self._manager = manager
        self._lanes: dict[str, Device] | None = {} if host_lanes else None
        self._observers: list[Observer] = []
        self._watchers: list[Observer] = []
        self._observed: dict[int, Device] = {}
        self._custom: dict[tuple[str, tuple[tuple[str, Any], ...]], CustomOperator] = {}
        self.fallbacks: Counter[tuple[str, str]] = Counter()
        self.host = self.device(HOST_URI)

    @property
    def devices(self) -> list[Device]:
        """The devices that tasks have gone to so far."""
        return list(self._observed.values())

    def device(self, device: Device | str) -> Device:
        """Return a device by URI, or the device given."""
        if isinstance(device, str):
            device = self._manager.open(device)
        if id(device) not in self._observed:
            self._observed[id(device)] = device
            device.observers.extend(self._observers)
            device.watchers.extend(self._watchers)
        return device

    def observe(self, observer: Observer, *, waits: bool = False) -> None:
        """Call ``observer`` with every task and transfer from now on; and with waits of the host.

        Those come on the threads that wait.
        """
        self._observers.append(observer)
        for device in self._observed.values():
            device.observers.append(observer)
        if waits:
            self._watchers.append(observer)
            for device in self._observed.values():
                device.watchers.append(observer)

    def ignore(self, observer: Observer) -> None:
        """Stop calling an observer."""
        self._observers.remove(observer)
        for device in self._observed.values():
            device.observers.remove(observer)
        if observer in self._watchers:
            self._watchers.remove(observer)
            for device in self._observed.values():
                device.watchers.remove(observer)

    def run(
        self, op: str, inputs: Sequence[Input], device: Device | str, attributes: dict[str, Any]
    ) -> DeviceArray:
        """Submit an operator; return the handle of its result at once.

        Raises
        ------
        UsageError
            If there is no such operator.
        """
        target = self.device(device)
        if op not in OPERATORS:
            return self._run_custom(op, inputs, target, attributes)
        if not target.supports(op, **attributes):
            self.fallbacks[target.uri, op] += 1
            target = self.host_for(target)
        placed = [self.place(value, target) for value in inputs]
        return target.submit(op, placed, **attributes).output

    def host_for(self, device: Device) -> Device:
        """Return where the host runs what a device has no kernel for."""
        if self._lanes is None or device is self.host:
            return self.host
        if device.uri not in self._lanes:
            self._lanes[device.uri] = self.device(f"{HOST_URI}:{len(self._lanes) + 1}")
        return self._lanes[device.uri]

    def place(self, value: Input, device: Device) -> DeviceArray:
        """Return a value as an array on a device, moved there if need be."""
        if isinstance(value, DeviceArray):
            if value.storage.device is device:
                return value
            return device.adopt(value.storage.device.download(value))
        if isinstance(value, Quantized | CiuicTensor):
            return device.hold(value)
        if isinstance(value, np.ndarray):
            return device.upload(value)
        raise UsageError(
            "input must be an array, CiuicTensor, quantized matrix or DeviceArray, "
            f"not {type(value).__name__}"
        )

    def synchronize(self) -> None:
        """Wait until everything submitted is done and counted."""
        for device in self._observed.values():
            if not device.closed:
                device.synchronize()

    def _run_custom(
        self, name: str, inputs: Sequence[Input], target: Device, attributes: dict[str, Any]
    ) -> DeviceArray:
        operator = self._custom_operator(name, attributes)
        tensors = [_as_tensor(value) for value in inputs]
        program, captured = operator.traced(tensors)
        values = [*inputs, *captured]
        if target.supports("expression", program=program):
            return self.run("expression", values, target, {"program": program})
        scale = softmax_scale(program)
        if scale is not None and target.supports("softmax", scale=scale):
            return self._run_softmax(values[0], program, target, scale)
        self.fallbacks[target.uri, program.name] += 1
        return self.run("expression", values, self.host_for(target), {"program": program})

    def _run_softmax(
        self, value: Input, program: Program, target: Device, scale: float
    ) -> DeviceArray:
        columns = program.shape[-1]
        rows = self.place(value, target).reshape(-(-_size(program.shape) // columns), columns)
        return self.run("softmax", [rows], target, {"scale": scale}).reshape(*program.shape)

    def _custom_operator(self, name: str, attributes: dict[str, Any]) -> CustomOperator:
        kind = registered_operator(name)
        if kind is None:
            raise UsageError(
                f"operator must be registered or one of {sorted(OPERATORS)}, not {name!r}"
            )
        key = (name, tuple(sorted(attributes.items())))
        if key not in self._custom:
            self._custom[key] = kind(**attributes)
        return self._custom[key]


def _as_tensor(value: Input) -> CiuicTensor:
    if isinstance(value, CiuicTensor):
        return value
    if isinstance(value, DeviceArray):
        return CiuicTensor.from_device(value)
    if isinstance(value, Quantized):
        raise UsageError(
            f"a custom operator's input must be a float tensor, not a {type(value).__name__}"
        )
    return CiuicTensor.from_numpy(value)


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))
