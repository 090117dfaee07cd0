"""TaskScheduler: a chain of layers, each on the device it was given or on the cheapest.

A layer without a device is measured on every device that it may have (once for all layers of a
kind and inputs of a shape), then the chain is placed as a whole, transfers and room for weights
counted. While it runs, a device that takes more than a fifth longer, or less, than it did when the
plan was made is measured anew, and the chain placed again. Emulated devices are chosen only when
they are among the devices named.

A device that fails is left: its layers go to one of its kind, to the host, or where they cost least
if none was asked for, and the run begins again. Number formats stay (`ciuic.stranded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from ciuic.devices import Device, DeviceArray, DeviceManager
from ciuic.errors import CiuicError, PlacementError, UsageError
from ciuic.layer_times import Layer, LayerTimes, Measurement, missing_bytes
from ciuic.runtime import Runtime
from ciuic.scheduler.chain import place_chain
from ciuic.scheduler.failover import Stranded, Survivor, fail_over
from ciuic.scheduler.plan import Plan, Step
from ciuic.scheduler.problem import HOST, ChainProblem
from ciuic.scheduler.trace import UsageRow
from ciuic.stranded import failed_device, keep_formats, release
from ciuic.tensor import CiuicTensor

DRIFT = 0.2  # share of the planned time


class _Task(NamedTuple):
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
        if devices is not None and not devices:
            raise UsageError("devices must name at least one device")
        self.plan: Plan | None = None
        self._runtime = Runtime(manager)
        self._devices: dict[str, Device] = {}  # those in use, by URI
        self._use(HOST)
        self._allowed = devices
        self._tasks: list[_Task] = []
        self._failed: set[str] = set()
        self._steps: list[Step] = []  # of the run that is under way
        self._planned: set[tuple[int, ...]] = set()  # shapes of inputs that there was a plan for
        self._times = LayerTimes(self._runtime)

    def add_task(self, layer: Layer, device: Device | str | None = None) -> None:
        """Append a layer; without a device the scheduler chooses by measured cost.

        Raises
        ------
        UsageError
            If the layer is nothing that can be run.
        DeviceNotFound
            If there is no such device here.
        """
        if not (hasattr(layer, "submit") and hasattr(layer, "weights")):
            raise UsageError(f"layer must be a layer of a model, not {type(layer).__name__}")
        uri = None if device is None else self._use(device)
        self._tasks.append(_Task(layer, uri))

    def run(self, hidden: CiuicTensor) -> CiuicTensor:
        """Return what the chain makes of a tensor (tokens, dim); it stays on the last device.

        Returns when it is there. The plan's note says which devices failed meanwhile.

        Operators that a device has no kernel for run on the host; the plan names and `report`
        counts them.

        Raises
        ------
        UsageError
            If no task was added.
        ShapeError
            If the tensor does not fit the layers.
        PlacementError
            If the weights do not fit on the devices, or no device runs a layer.
        CiuicError
            If a device fails and there is no other, with its story; no weight of the chain is on a
            device then.
        """
        if not self._tasks:
            raise UsageError("the scheduler must have a task before it runs")
        if not isinstance(hidden, CiuicTensor):
            raise UsageError(f"hidden must be a CiuicTensor, not {type(hidden).__name__}")
        note, story = "", None
        while True:
            try:
                return self._run(hidden, note)
            except CiuicError as error:
                if error.story is None:  # no room without a device that failed before
                    error.story = story
                story = error.story
                note = "; ".join(filter(None, (note, self._leave(error, hidden))))

    def _run(self, hidden: CiuicTensor, failures: str) -> CiuicTensor:
        note = "; ".join(filter(None, (failures, self._forget_drifted())))
        steps = self._steps = self._place(hidden)
        if note or hidden.shape not in self._planned:
            self._planned.add(hidden.shape)
            self._runtime.costs.settle()
        value: CiuicTensor | DeviceArray = hidden
        for index, (task, step) in enumerate(zip(self._tasks, steps, strict=True)):
            before = self._runtime.fallbacks
            device = self._devices[step.device]
            value = task.layer.submit(value, runtime=self._runtime, device=device)
            on_host = tuple(op for _, op in self._runtime.fallbacks - before)
            steps[index] = replace(step, on_host=on_host)
        assert isinstance(value, DeviceArray)  # there is at least one layer
        value.device.synchronize()
        if value.storage.error is not None:
            raise value.storage.error
        self.plan = Plan(steps=tuple(steps), note=note)
        return self._runtime.tensor(value)

    def report(self) -> list[UsageRow]:
        """Return what each device has done, measurements included; wait for all of it."""
        return self._runtime.usage()

    def _use(self, device: Device | str) -> str:
        on = self._runtime.device(device)
        self._devices[on.uri] = on
        return on.uri

    def _leave(self, error: CiuicError, hidden: CiuicTensor) -> str:
        """Take the layers off the device that failed; return what happened.

        Raises
        ------
        CiuicError
            The error itself if no device is to blame, or only the host; `PlacementError` from it if
            there is no room elsewhere.
        """
        layers = [task.layer for task in self._tasks]
        failed = failed_device(error, self._devices)
        if failed is None:
            if error.story is not None:
                self._release(hidden)
            raise error
        release(layers, [hidden], failed)
        del self._devices[failed.uri]
        self._failed.add(failed.uri)
        stranded = {
            str(index): task for index, task in enumerate(self._tasks) if task.device == failed.uri
        }
        left = {uri: one for uri, one in self._devices.items() if not one.lost}
        try:
            moves = fail_over(
                [
                    Stranded(
                        part=index,
                        nbytes={uri: missing_bytes(task.layer, one) for uri, one in left.items()},
                    )
                    for index, task in stranded.items()
                ],
                kind=failed.kind,
                survivors=[
                    Survivor(device=uri, kind=one.kind, room=self._room(one))
                    for uri, one in left.items()
                ],
            )
        except PlacementError as refusal:
            self._release(hidden)
            refusal.story = error.story
            raise refusal from error
        for index, (task, step) in enumerate(zip(self._tasks, self._steps, strict=True)):
            if step.device == failed.uri:
                keep_formats(task.layer, failed)
            for move in moves:
                if move.part == str(index):
                    self._tasks[index] = task._replace(device=move.target)
        return f"{failed.uri} failed: {error}; {error.story}; goes on without it"

    def _room(self, device: Device) -> int:
        """Return the bytes of a device that are left beside layers that it was asked for."""
        mine = (task.layer for task in self._tasks if task.device == device.uri)
        wanted = sum(missing_bytes(layer, device) for layer in mine)
        return device.capacity_bytes - device.used_bytes - wanted

    def _release(self, hidden: CiuicTensor) -> None:
        for device in self._devices.values():
            release([task.layer for task in self._tasks], [hidden], device)

    def _forget_drifted(self) -> str:
        """Forget what was measured on devices that have drifted; return the reason to plan anew."""
        if all(task.device is not None for task in self._tasks):
            return ""
        found = []
        for uri, device in self._devices.items():
            drift = self._runtime.costs.drift(uri)
            if abs(drift) > DRIFT:
                self._times.forget(device)
                found.append(f"{uri} took {1 + drift:.2f} times what was planned")
        return f"placed anew: {', '.join(found)}" if found else ""

    def _place(self, hidden: CiuicTensor) -> list[Step]:
        """Return where each layer goes."""
        measured = self._measure_all(hidden)
        costs = [
            {uri: one.seconds for uri, one in here.items() if one.refusal is None}
            for here in measured
        ]
        sizes = [
            {uri: missing_bytes(task.layer, self._devices[uri]) for uri in here}
            for task, here in zip(self._tasks, costs, strict=True)
        ]
        room = {uri: on.capacity_bytes - on.used_bytes for uri, on in self._devices.items()}
        for uri in room:
            room[uri] -= max(
                (here[uri].working_bytes for here in measured if uri in here), default=0
            )

        def transfer(source: str, target: str, _index: int) -> float:
            pair = (self._devices[source], self._devices[target])
            return self._runtime.costs.transfer_seconds(*pair, hidden.nbytes)

        chosen = place_chain(
            ChainProblem(seconds=costs, transfer=transfer, nbytes=sizes, room=room)
        )
        return [
            Step(
                layer=f"{index} {type(task.layer).__name__}",
                device=device,
                reason=_reason(task, measured[index], reason),
                seconds=measured[index][device].seconds if len(measured[index]) > 1 else None,
            )
            for index, (task, device, reason) in enumerate(
                zip(self._tasks, chosen.devices, chosen.reasons, strict=True)
            )
        ]

    def _measure_all(self, hidden: CiuicTensor) -> list[dict[str, Measurement]]:
        """Return for each layer the devices that it may have and its time there."""
        candidates: list[str] = []
        if any(task.device is None for task in self._tasks):
            candidates = self._candidates()
        found = []
        for index, task in enumerate(self._tasks):
            uris = candidates if task.device is None else [task.device]
            if len(uris) == 1:  # no choice: nothing to measure
                found.append({uris[0]: Measurement(0.0)})
                continue
            measured = {uri: self._times.of(task.layer, hidden, self._devices[uri]) for uri in uris}
            if all(one.refusal is not None for one in measured.values()):
                reasons = "; ".join(f"{uri}: {one}" for uri, one in measured.items())
                raise PlacementError(f"layer {index} runs on none of its devices: {reasons}")
            found.append(measured)
        return found

    def _candidates(self) -> list[str]:
        manager = self._runtime.manager
        allowed = manager.list_uris(emulated=False) if self._allowed is None else self._allowed
        left = [one for one in allowed if _uri(one) not in self._failed]
        return list(dict.fromkeys(map(self._use, left or [HOST])))


def _uri(device: Device | str) -> str:
    return device if isinstance(device, str) else device.uri


def _reason(task: _Task, measured: Mapping[str, Measurement], chosen: str) -> str:
    if task.device is not None:
        return "as asked"
    if len(measured) == 1:
        return "the only device allowed"
    refused = [f"{uri} {one.refusal}" for uri, one in sorted(measured.items()) if one.refusal]
    return ", ".join([chosen, *refused])
