"""TaskScheduler: a chain of layers, each on the device it was given or on the cheapest.

A layer without a device is measured on every device that it may have (once for all layers of a
kind and inputs of a shape), then the chain is placed as a whole, transfers counted. Emulated
devices are chosen only when they are among the devices named.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ciuic.devices import Device, DeviceArray, DeviceManager
from ciuic.errors import UsageError
from ciuic.runtime import Runtime
from ciuic.scheduler.placement import HOST, cheapest_chain
from ciuic.scheduler.plan import Plan, Step
from ciuic.scheduler.trace import UsageRow
from ciuic.tensor import CiuicTensor

MEASUREMENTS = 2  # the faster one counts; before them the layer runs once to bring its weights


class Layer(Protocol):
    """What the scheduler needs of a layer."""

    def submit(
        self, hidden: CiuicTensor | DeviceArray, *, runtime: Runtime, device: Device | str
    ) -> DeviceArray:
        """Submit the layer's operators and return the handle of its output."""


@dataclass
class _Task:
    layer: Layer
    device: str | None  # URI, or None: the scheduler chooses


class TaskScheduler:
    """Runs layers in the order in which they were added.

    Parameters
    ----------
    manager
        Opens devices; a new one by default.
    devices
        Devices, or their URIs, that layers without one may be put on. By default the host and
        every device here that is not emulated.

    Attributes
    ----------
    plan : Plan or None
        What the last run did, and why.
    """

    def __init__(
        self,
        manager: DeviceManager | None = None,
        *,
        devices: Sequence[Device | str] | None = None,
    ) -> None:
        self.plan: Plan | None = None
        self._runtime = Runtime(manager)
        self._allowed = devices
        self._tasks: list[_Task] = []
        self._measured: dict[tuple[Any, ...], float] = {}

    def add_task(self, layer: Layer, device: Device | str | None = None) -> None:
        """Append a layer; without a device the scheduler chooses by measured cost.

        Raises
        ------
        UsageError
            If the layer is nothing that can be run.
        DeviceNotFound
            If there is no such device here.
        """
        if not hasattr(layer, "submit"):
            raise UsageError(f"layer must be a layer of a model, not {type(layer).__name__}")
        uri = None if device is None else self._runtime.device(device).uri
        self._tasks.append(_Task(layer, uri))

    def run(self, hidden: CiuicTensor) -> CiuicTensor:
        """Return what the chain makes of a tensor (tokens, dim); it stays on the last device.

        Operators that a device has no kernel for run on the host; `report` counts them.

        Raises
        ------
        UsageError
            If no task was added.
        ShapeError
            If the tensor does not fit the layers.
        """
        if not self._tasks:
            raise UsageError("the scheduler must have a task before it runs")
        self.plan = self._place(hidden)
        value: CiuicTensor | DeviceArray = hidden
        for task, step in zip(self._tasks, self.plan.steps, strict=True):
            value = task.layer.submit(value, runtime=self._runtime, device=step.device)
        return value if isinstance(value, CiuicTensor) else self._runtime.tensor(value)

    def report(self) -> list[UsageRow]:
        """Return what each device has done, measurements included; wait for all of it."""
        return self._runtime.usage()

    def _place(self, hidden: CiuicTensor) -> Plan:
        """Return where each layer goes."""
        candidates = self._candidates() if any(t.device is None for t in self._tasks) else []
        costs: list[Mapping[str, float]] = [
            {task.device: 0.0}
            if task.device is not None
            else {uri: self._measure(task.layer, hidden, uri) for uri in candidates}
            for task in self._tasks
        ]

        def transfer(source: str, target: str, _index: int) -> float:
            devices = (self._runtime.device(source), self._runtime.device(target))
            return self._runtime.costs.transfer_seconds(*devices, hidden.nbytes)

        chosen = cheapest_chain(costs, transfer)
        return Plan(
            steps=tuple(
                _step(index, task, uri, cost)
                for index, (task, uri, cost) in enumerate(
                    zip(self._tasks, chosen, costs, strict=True)
                )
            )
        )

    def _candidates(self) -> list[str]:
        if self._allowed is not None:
            return [self._runtime.device(device).uri for device in self._allowed]
        manager = self._runtime.manager
        devices = [manager.open(uri) for uri in manager.list_uris()]
        return [device.uri for device in devices if device.uri == HOST or not device.emulated]

    def _measure(self, layer: Layer, hidden: CiuicTensor, uri: str) -> float:
        """Return the seconds of a layer on a device."""
        weights = getattr(layer, "weights", ())
        shapes = tuple(weight.shape for _, weight in weights) or (id(layer),)
        key = (type(layer), shapes, hidden.shape, uri)
        if key not in self._measured:
            times = []
            for _ in range(1 + MEASUREMENTS):
                start = time.perf_counter()
                layer.submit(hidden, runtime=self._runtime, device=uri).numpy()
                times.append(time.perf_counter() - start)
            self._measured[key] = min(times[1:])
        return self._measured[key]


def _step(index: int, task: _Task, uri: str, cost: Mapping[str, float]) -> Step:
    if task.device is not None:
        reason, seconds = "as asked", None
    elif len(cost) == 1:
        reason, seconds = "the only device allowed", cost[uri]
    else:
        measured = ", ".join(f"{name} {1e3 * cost[name]:.2f} ms" for name in sorted(cost))
        reason, seconds = f"least time of the chain, measured: {measured}", cost[uri]
    name = f"{index} {type(task.layer).__name__}"
    return Step(layer=name, device=uri, reason=reason, seconds=seconds)
