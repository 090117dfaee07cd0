"""BatchPipeline: a chain of layers over many batches, its devices at work at the same time.

The chain is cut into stages, one a device (`ciuic.scheduler.stages`), by measured times. Each
stage takes one batch at a time; while it works, the stage before it works on the next batch. What
a device has no kernel for, the host does in a queue of its own for that device, so that it does
not wait behind a stage of the host. Weights are brought once and stay.

A device that fails is left: the others share the chain, and batches that had not come through
begin again. Number formats stay (`ciuic.stranded`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ciuic.devices import Device, DeviceArray, DeviceManager
from ciuic.errors import CiuicError, PlacementError, UsageError
from ciuic.layer_times import Layer, LayerTimes, missing_bytes
from ciuic.memory.tiers import MemoryHierarchy
from ciuic.runtime import Runtime
from ciuic.scheduler.problem import HOST
from ciuic.scheduler.stages import Stage, best_stages
from ciuic.scheduler.trace import UsageRow
from ciuic.stranded import failed_device, keep_formats, release
from ciuic.tensor import CiuicTensor

logger = logging.getLogger(__name__)


class BatchPipeline:
    """Runs layers over batches that follow one another.

    Parameters
    ----------
    layers
        The chain.
    devices
        Devices, or their URIs, that may have a stage; the host is one only if it is named.
    manager
        Opens devices; a new one by default.

    Attributes
    ----------
    stages : list of Stage
        What the last run did; empty before.

    Raises
    ------
    UsageError
        If there are no layers or no devices.
    DeviceNotFound
        If a device is not here.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        devices: Sequence[Device | str],
        manager: DeviceManager | None = None,
    ) -> None:
        if not layers or not devices:
            raise UsageError("a pipeline must have at least one layer and one device")
        self.stages: list[Stage] = []
        self._layers = list(layers)
        self._runtime = Runtime(manager, host_lanes=True)
        self._devices = {d.uri: d for d in map(self._runtime.device, devices)}
        self._times = LayerTimes(self._runtime)
        self._memory = MemoryHierarchy(self._runtime.manager)

    def plan(self, hidden: CiuicTensor) -> list[Stage]:
        """Return the stages for batches like ``hidden`` (tokens, dim), and bring their weights.

        Raises
        ------
        PlacementError
            If a layer runs on none of the devices, or the layers do not fit on them.
        """
        costs: list[dict[str, float]] = []
        working = dict.fromkeys(self._devices, 0)
        for index, layer in enumerate(self._layers):
            measured = {u: self._times.of(layer, hidden, d) for u, d in self._devices.items()}
            costs.append({u: m.seconds for u, m in measured.items() if m.refusal is None})
            if not costs[-1]:
                reasons = "; ".join(f"{uri}: {one}" for uri, one in measured.items())
                raise PlacementError(f"layer {index} runs on none of the devices: {reasons}")
            for uri, one in measured.items():
                # The result of the batch before may wait there for its next stage.
                working[uri] = max(working[uri], one.working_bytes + hidden.nbytes)
        sizes = [
            {uri: missing_bytes(layer, device) for uri, device in self._devices.items()}
            for layer in self._layers
        ]
        room = {
            uri: device.capacity_bytes - device.used_bytes - working[uri]
            for uri, device in self._devices.items()
        }
        ends = {**self._devices, HOST: self._runtime.device(HOST)}

        def transfer(source: str, target: str, _index: int) -> float:
            return self._runtime.costs.transfer_seconds(ends[source], ends[target], hidden.nbytes)

        self.stages = best_stages(costs, transfer, sizes, room)
        for stage in self.stages:
            for layer in self._layers[stage.start : stage.stop]:
                self._memory.move_to_device(layer.weights, self._devices[stage.device])
        return self.stages

    def run(self, batches: Sequence[CiuicTensor]) -> list[CiuicTensor]:
        """Return what the chain makes of each batch (tokens, dim), in their order, on the host.

        Raises
        ------
        PlacementError
            As `plan` does, which runs for the first batch if it has not before.
        ShapeError
            If a batch does not fit the layers.
        CiuicError
            If a device fails and there is no other, with its story; no weight of the chain is on a
            device then.
        """
        if not batches:
            return []
        done: dict[int, CiuicTensor] = {}
        while len(done) < len(batches):
            try:
                if not self.stages:
                    self.plan(batches[0])
                self._run(batches, done)
            except CiuicError as error:
                self._leave(error, batches)
        return [done[index] for index in range(len(batches))]

    def _run(self, batches: Sequence[CiuicTensor], done: dict[int, CiuicTensor]) -> None:
        """Take the batches that are not done through all stages."""
        turns = [threading.Lock() for _ in self.stages]
        # One batch in each stage, and one that waits for the first.
        with ThreadPoolExecutor(len(self.stages) + 1, thread_name_prefix="ciuic batch") as pool:
            results = {
                index: pool.submit(self._one, batch, turns)
                for index, batch in enumerate(batches)
                if index not in done
            }
            try:
                for index, result in results.items():
                    done[index] = result.result()
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def _leave(self, error: CiuicError, batches: Sequence[CiuicTensor]) -> None:
        """Take the chain off the device that failed.

        Raises
        ------
        CiuicError
            The error itself, if no device is to blame or no other is left.
        """
        failed = failed_device(error, self._devices)
        if failed is None and error.story is None:
            raise error
        stages, self.stages = self.stages, []
        if failed is None or len(self._devices) == 1:
            for device in self._devices.values():
                release(self._layers, batches, device)
            raise error
        what = f"{failed.uri} failed: {error}; {error.story}; goes on without it"
        logger.warning("%s", what)  # the error itself would keep what its frames refer to
        release(self._layers, batches, failed)
        for stage in stages:
            if stage.device == failed.uri:
                for layer in self._layers[stage.start : stage.stop]:
                    keep_formats(layer, failed)
        del self._devices[failed.uri]

    def report(self) -> list[UsageRow]:
        """Return what each device has done, measurements included; wait for all of it."""
        return self._runtime.usage()

    def _one(self, batch: CiuicTensor, turns: Sequence[threading.Lock]) -> CiuicTensor:
        """Take one batch through all stages."""
        value: CiuicTensor | DeviceArray = batch
        for stage, turn in zip(self.stages, turns, strict=True):
            with turn:
                for layer in self._layers[stage.start : stage.stop]:
                    device = self._devices[stage.device]
                    value = layer.submit(value, runtime=self._runtime, device=device)
                value.numpy()  # the stage's next batch begins when this one has left it
        return CiuicTensor.from_numpy(value.numpy())
