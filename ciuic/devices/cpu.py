"""The CPU: numpy kernels of `ciuic.ops` on host memory. It runs every operator.

Weights are held with their integers as float32, since BLAS has no integer product; the
results are exact all the same (`ciuic.ops.linear`, `ciuic.ops.linear_int4`).
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.errors import DeviceNotFound, UsageError
from ciuic.ops import OPERATORS
from ciuic.ops.linear import FloatWeight
from ciuic.ops.linear_int4 import ScaledWeight
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized

from .array import DeviceArray
from .base import Device, Kernel, Kind, Weight
from .blas import blas_threads, set_blas_threads
from .roofline import Roofline

KIND: Kind = "CPU"
URI = "cpu"


class CpuDevice(Device):
    """The host's processor.

    One thread computes, since the other cores drive other devices and their transfers, and BLAS
    threads that have to share a core are many times slower (`ciuic.devices.blas`).
    """

    kind = KIND
    emulated = False
    host_memory = True
    roofline = Roofline(
        flops_per_second=3e10,
        bytes_per_second=1e10,
        link_bytes_per_second=1e10,
        task_seconds=2e-5,
    )

    def __init__(self, uri: str = URI) -> None:
        self.name = platform.processor() or platform.machine()
        super().__init__(uri, host_memory_bytes())
        self._threads_before = blas_threads() if uri == URI else None
        self.threads = 1

    @property
    def threads(self) -> int | None:
        """BLAS threads of the process; None where that cannot be known. May be set."""
        return blas_threads()

    @threads.setter
    def threads(self, count: int) -> None:
        if count < 1:
            raise UsageError(f"threads must be at least 1, not {count!r}")
        set_blas_threads(count)

    def _load_kernels(self) -> dict[str, Kernel]:
        return {name: _numpy_kernel(operator.kernel) for name, operator in OPERATORS.items()}

    def _put(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(value)

    def _put_weight(self, weight: Quantized) -> FloatWeight | ScaledWeight:
        if isinstance(weight, GroupQuantizedMatrix):
            return ScaledWeight.of(weight)
        return FloatWeight.of(weight)

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents: npt.NDArray[Any] = array.data.view()
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
        if self._threads_before is not None:
            set_blas_threads(self._threads_before)

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        if isinstance(weight, Quantized):
            # float32 instead of INT8; the rest as it is
            return weight.nbytes + (4 - 1) * weight.values.size
        return weight.nbytes


def _numpy_kernel(function: Callable[..., npt.NDArray[Any]]) -> Kernel:
    def kernel(
        inputs: Sequence[DeviceArray], _output: DeviceArray, attributes: dict[str, Any]
    ) -> npt.NDArray[Any]:
        return function(*map(host_operand, inputs), **attributes)

    return kernel


def host_operand(array: DeviceArray) -> Any:
    """Return what a numpy kernel takes of an array whose data lie in host memory."""
    data = array.data
    if isinstance(data, np.ndarray) and data.shape != array.shape:
        return data.reshape(array.shape)
    return data


def host_memory_bytes() -> int:
    """Return the bytes of memory that the host has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def open_device(uri: str) -> CpuDevice:
    """Return the CPU as a device; ``cpu:1``, ``cpu:2`` and so on are further queues of it."""
    lane = uri.removeprefix(f"{URI}:")
    if uri != URI and not (lane.isascii() and lane.isdigit()):
        raise DeviceNotFound(uri, "the CPU must be 'cpu', or 'cpu:1' and so on for further queues")
    return CpuDevice(uri)


def list_devices(*, emulated: bool = True) -> list[str]:
    """Return the URIs of the devices available here, emulated or not."""
    return [URI]
