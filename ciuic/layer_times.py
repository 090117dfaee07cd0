"""LayerTimes: seconds of a layer on a device, measured once for layers that cost the same."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Protocol

from ciuic.devices import Device, DeviceArray
from ciuic.errors import DeviceError, OutOfMemory
from ciuic.memory.tiers import Weights, missing_weights, weights_on
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

MEASUREMENTS = 2  # the faster one counts


class Layer(Protocol):
    """What the scheduler needs of a layer."""

    @property
    def weights(self) -> Weights:
        """The layer's weights."""

    def submit(
        self, hidden: CiuicTensor | DeviceArray, *, runtime: Runtime, device: Device | str
    ) -> DeviceArray:
        """Submit the layer's operators and return the handle of its output."""


@dataclass(frozen=True)
class Measurement:
    """Time of a layer on a device, or why it does not run there."""

    seconds: float = math.inf
    working_bytes: int = 0  # besides the weights
    refusal: str | None = None

    def __str__(self) -> str:
        return f"{1e3 * self.seconds:.2f} ms" if self.refusal is None else self.refusal


class LayerTimes:
    """Measures layers, each kind once."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._measured: dict[tuple[Any, ...], Measurement] = {}

    def of(self, layer: Layer, hidden: CiuicTensor, device: Device) -> Measurement:
        """Return the time of a layer on a device, its input there already.

        Its weights are brought for that and taken away again. Layers of one type and with weights
        of the same shapes take as long as each other.
        """
        shapes = tuple(weight.shape for weight in weights_on(layer.weights, device.kind))
        key = (type(layer), shapes or id(layer), hidden.shape, device.uri)
        if key not in self._measured:
            brought = missing_weights(layer.weights, device)
            try:
                self._measured[key] = self._try(layer, hidden, device)
            except (DeviceError, OutOfMemory) as error:
                self._measured[key] = Measurement(refusal=str(error))
            finally:
                for weight in brought:
                    device.evict(weight)
        return self._measured[key]

    def forget(self, device: Device) -> None:
        """Measure anew what was measured on a device."""
        self._measured = {key: one for key, one in self._measured.items() if key[-1] != device.uri}

    def _try(self, layer: Layer, hidden: CiuicTensor, device: Device) -> Measurement:
        """Run a layer on a device; once more than is measured, to bring its weights."""
        self._timed(layer, hidden, device)
        device.reset_peak()
        before = device.used_bytes
        times = [self._timed(layer, hidden, device) for _ in range(MEASUREMENTS)]
        return Measurement(min(times), hidden.nbytes + device.peak_bytes - before)

    def _timed(self, layer: Layer, hidden: CiuicTensor, device: Device) -> float:
        """Return the seconds of a layer, its input being on the device already."""
        placed = self._runtime.place(hidden, device)
        self._runtime.synchronize()
        start = time.perf_counter()
        result = layer.submit(placed, runtime=self._runtime, device=device)
        self._runtime.synchronize()
        seconds = time.perf_counter() - start
        result.numpy()  # raises what made it fail
        return seconds


def missing_bytes(layer: Layer, device: Device) -> int:
    """Return the bytes that a layer's weights would take on a device beyond those it holds."""
    return sum(map(device.weight_bytes, missing_weights(layer.weights, device)))
