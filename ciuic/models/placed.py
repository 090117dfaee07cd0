"""A runtime and the device that operators are for."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, Weight
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
        """Bring a weight to the device whose operator will use it, to stay there."""
        self.home_of(weight).hold(weight)

    def home_of(self, weight: Weight) -> Device:
        """Return the device whose operator will use a weight."""
        return self.home(_linear(weight) if len(weight.shape) == 2 else "rms_norm")

    def linear(self, x: Value, weight: Weight, bias: Weight | None = None) -> DeviceArray:
        """Submit a linear layer: x (t, k), weight (k, n), bias (n,) -> (t, n)."""
        if isinstance(weight, QuantizedMatrix) and weight.block > 1:
            x = self._rotate(x, weight.block)
        return self.run(_linear(weight), x, weight, *(() if bias is None else (bias,)))

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
