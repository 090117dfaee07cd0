"""A runtime and the device that operators are for."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, Weight
from ciuic.memory.division import Division
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

HOST = "cpu"
Value = DeviceArray | CiuicTensor | npt.NDArray[Any]


class Placed:
    """Submits operators for one device; the host runs those that it has no kernel for."""

    def __init__(self, runtime: Runtime, device: Device | str) -> None:
        self.runtime = runtime
        self.device = runtime.device(device)
        self._rotated: tuple[Value, int, DeviceArray] | None = None  # the last: layers share it

    def run(self, op: str, *inputs: Value | Weight, **attributes: Any) -> DeviceArray:
        """Submit an operator and return the handle of its result."""
        return self.runtime.run(op, inputs, device=self.device, **attributes)

    def hold(self, weight: Weight) -> None:
        """Bring a weight to the device whose operator will use it, or its parts, to stay there."""
        division = self.runtime.division(weight)
        if division is not None:
            division.hold(weight)
        else:
            self.home_of(weight).hold(weight)

    def beside(self, weight: Weight) -> Placed:
        """Return where to compute with what a linear layer gives: this, or where all of it is."""
        division = self.runtime.division(weight)
        device = None if division is None else division.whole_on
        return self if device is None or device is self.device else Placed(self.runtime, device)

    def home_of(self, weight: Weight) -> Device:
        """Return the device whose operator will use a weight."""
        return self.home(_linear(weight) if len(weight.shape) == 2 else "rms_norm")

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> DeviceArray:
        """Submit a linear layer: x (t, k), weight (k, n), bias (n,) -> (t, n)."""
        if isinstance(weight, QuantizedMatrix) and weight.block > 1:
            x = self._rotate(x, weight.block)
        division = self.runtime.division(weight)
        inputs = (x, weight) if bias is None else (x, weight, bias)
        if division is None:
            return self.run(_linear(weight), *inputs)
        if division.whole_on is not None:
            return self.runtime.run(_linear(weight), inputs, device=division.whole_on)
        return self._divided(_linear(weight), x, division)

    def _divided(self, op: str, x: Value, division: Division) -> DeviceArray:
        """Submit the parts of a linear layer, the host's last: it is then the others' turn."""
        found: dict[int, DeviceArray] = {}
        with self.runtime.together():
            for part in sorted(division, key=lambda part: part.device.host_memory):
                inputs = [x, *(one for one in (part.weight, part.bias) if one is not None)]
                found[part.start] = self.runtime.run(op, inputs, device=part.device)
        return self.run("join_columns", *(found[part.start] for part in division))

    def _rotate(self, x: Value, block: int) -> DeviceArray:
        if self._rotated is None or self._rotated[0] is not x or self._rotated[1] != block:
            self._rotated = x, block, self.run("hadamard", x, block=block)
        return self._rotated[2]

    def home(self, op: str) -> Device:
        """Return the device that will run an operator: this one or the host."""
        return self.runtime.home(op, self.device)


def _linear(weight: Weight) -> str:
    if isinstance(weight, GroupQuantizedMatrix):
        return "linear_int4"
    return "linear" if isinstance(weight, QuantizedMatrix) else "linear_float32"
