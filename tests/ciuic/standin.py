"""A device for tests: numpy kernels on memory that counts as its own, slow or small if asked."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, Kernel, Kind, Roofline
from ciuic.devices.native_calls import host_operand
from ciuic.errors import DeviceError
from ciuic.ops import OPERATORS
from ciuic.ops.linear import FloatWeight
from ciuic.ops.linear_int4 import ScaledWeight
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import Quantized


class StandIn(Device):
    """A GPU in name.

    Parameters
    ----------
    uri
    capacity
        Bytes of its memory.
    seconds
        That each task takes at least.
    without
        Operators that it has no kernel for.
    broken
        Operators whose kernel fails; "upload" fails to take INT8 weights.
    """

    kind: Kind = "GPU"
    name = "stand-in"
    emulated = True
    roofline = Roofline(1e9, 1e9, 1e9, 1e-5)

    def __init__(
        self,
        uri: str = "standin",
        capacity: int = 1 << 24,
        *,
        seconds: float = 0.0,
        without: Collection[str] = (),
        broken: Collection[str] = (),
    ) -> None:
        self._seconds = seconds
        self._without = without
        self._broken = broken
        super().__init__(uri, capacity)

    def _load_kernels(self) -> dict[str, Kernel]:
        return {op: self._kernel(op) for op in OPERATORS if op not in self._without}

    def _kernel(self, op: str) -> Kernel:
        def kernel(
            inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
        ) -> Any:
            if op in self._broken:
                raise DeviceError(f"{op} is broken")
            time.sleep(self._seconds)
            return OPERATORS[op].kernel(*map(host_operand, inputs), **attributes)

        return kernel

    def _put(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return value.copy()

    def _put_weight(self, weight: Quantized) -> FloatWeight | ScaledWeight:
        if "upload" in self._broken:
            raise DeviceError("upload is broken")
        if isinstance(weight, QuantizedMatrix):
            return FloatWeight.of(weight)
        return ScaledWeight.of(weight)

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents: npt.NDArray[Any] = array.data.copy()
        return contents

    def _zeros(
        self, _inputs: Sequence[DeviceArray], output: DeviceArray, _attributes: dict[str, Any]
    ) -> npt.NDArray[Any]:
        return np.zeros(output.shape, output.dtype)

    def _drop(self, data: Any) -> None:
        """There is nothing to release: an array goes with its last reference."""

    def _finish(self) -> None:
        """Kernels have finished when they return."""

    def _close(self) -> None:
        """There is nothing to release."""


class FailsLater(StandIn):
    """A stand-in that fails at a linear layer when ``left`` more have been computed.

    Attributes
    ----------
    left
        None: it does not fail.
    """

    left: int | None = None

    def _kernel(self, op: str) -> Kernel:
        good = super()._kernel(op)

        def kernel(
            inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
        ) -> Any:
            if op == "linear" and self.left is not None:
                self.left -= 1
                if self.left < 0:
                    raise DeviceError(f"{op} failed")
            return good(inputs, output, attributes)

        return kernel
