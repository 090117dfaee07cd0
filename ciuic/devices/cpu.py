"""The CPU: runs every operator on host memory, by kernels in C where there are some.

The kernels in C (`native`) are for what decoding is made of; they leave INT8 weights as they are,
without a copy if they lie by rows. All other operators are the numpy kernels of `ciuic.ops`, which
also do everything where no C compiler is. Those hold the integers of weights as float32, since BLAS
has no integer product (`ciuic.ops.linear`, `ciuic.ops.linear_int4`). Both give the same bits.
"""

from __future__ import annotations

import mmap
import os
import platform
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.errors import DeviceNotFound, UsageError
from ciuic.ops import OPERATORS
from ciuic.ops.linear import FloatWeight
from ciuic.ops.linear_int4 import ScaledWeight
from ciuic.ops.operator import Operator
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized

from .arena import ArenaDevice, Result
from .array import DeviceArray
from .base import Kernel, Kind, Weight
from .blas import blas_threads, set_blas_threads
from .disk import PAGE_NBYTES, DiskReader, memory_for
from .host_arena import HostArena
from .native import HOW_TO_GET, Native, load
from .native_calls import ARGUMENTS, Calls, RowWeight, host_operand
from .program import Program
from .roofline import Roofline

KIND: Kind = "CPU"
URI = "cpu"
ALIGNMENT = 64  # bytes: results begin on a cache line
# One loop over memory in numpy too, with less work around it; in C they are for programs.
NUMPY_IS_AS_GOOD = {"add", "kv_append"}


class CpuDevice(ArenaDevice):
    """The host's processor.

    One thread computes, since the other cores drive other devices and their transfers, and BLAS
    threads that have to share a core are many times slower (`ciuic.devices.blas`).

    Parameters
    ----------
    native : Native, optional
        Its kernels in C; compiled if need be. ``Native(None, why)`` leaves it with numpy alone.

    """

    kind = KIND
    emulated = False
    host_memory = True
    arrays_on_host = True
    # With three reads on their way the disk is never idle, nor with five slots when a core is
    # late; larger pieces and more slots keep weights out that would stay, and smaller pieces take
    # longer beside kernels. A piece takes four huge pages with those that it shares at its ends.
    piece_nbytes = (8 << 20) - 2 * PAGE_NBYTES
    slot_counts = ((5,), (4, 3, 2))
    copy_lanes = 3
    roofline = Roofline(
        flops_per_second=3e10,
        bytes_per_second=1e10,
        link_bytes_per_second=1e10,
        task_seconds=2e-5,
    )

    def __init__(self, uri: str = URI, native: Native | None = None) -> None:
        self.native = load() if native is None else native
        self._calls = None if self.native.library is None else Calls(self.native.library)
        self.name = f"{platform.processor() or platform.machine()}, {describe_kernels(self.native)}"
        self._readers: dict[Path, DiskReader] = {}
        self._readers_lock = threading.Lock()
        self._open_arena(HostArena(uri), ALIGNMENT)
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

    def records(self, op: str, **attributes: Any) -> bool:
        """Return whether an operator with these attributes can be a step of a `Program`."""
        return self._calls is not None and _is_native(op, attributes)

    def submit_program(self, program: Program, x: DeviceArray, offset: int) -> DeviceArray:
        """Queue a recorded program for one token and return the handle of its result.

        Parameters
        ----------
        program
            Recorded for this device.
        x : (1, d)
            What goes into its first step.
        offset
            The token's position, and the slot of its keys and values in the cache.
        """
        assert self._calls is not None  # or nothing could have been recorded
        self._check_owner((x,))
        kernel = partial(self._run_program, program)
        with self._arena_lock:
            output = self._new_result(
                program.result.shape, program.result.dtype, (program.arena_bytes,)
            )
            return self._enqueue("decode", kernel, (x,), output, {"offset": offset}).output

    def _run_program(
        self,
        program: Program,
        inputs: Sequence[DeviceArray],
        output: DeviceArray,
        attributes: dict[str, Any],
    ) -> npt.NDArray[np.float32]:
        assert self._calls is not None
        self._fit(output)
        result: npt.NDArray[np.float32] = output.storage.data
        memory, x = self._next_between(), host_operand(inputs[0])
        program.run(self._calls, memory, x, result, attributes["offset"])
        return result

    def _load_kernels(self) -> dict[str, Kernel]:
        kernels = {name: self._numpy_kernel(operator) for name, operator in OPERATORS.items()}
        if self._calls is not None:
            for op in ARGUMENTS.keys() - NUMPY_IS_AS_GOOD:
                kernels[op] = self._native_kernel(self._calls, op, kernels[op])
        return kernels

    def _numpy_kernel(self, operator: Operator) -> Kernel:
        function, in_place, takes_out = operator.kernel, operator.in_place, operator.takes_out
        fit = self._fit

        def kernel(
            inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
        ) -> npt.NDArray[Any]:
            fit(output)
            result: npt.NDArray[Any] = output.storage.data
            operands = map(host_operand, inputs)
            if takes_out:
                return function(*operands, out=result, **attributes)
            computed = function(*operands, **attributes)
            if not in_place:
                result[...] = computed
            return result

        return kernel

    def _native_kernel(self, calls: Calls, op: str, in_numpy: Kernel) -> Kernel:
        arguments_of, in_place, fit = ARGUMENTS[op], OPERATORS[op].in_place, self._fit

        def kernel(
            inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
        ) -> Any:
            if not _is_native(op, attributes):
                return in_numpy(inputs, output, attributes)
            fit(output)
            arguments = arguments_of(*inputs[in_place:], **attributes)
            calls.run(calls.pack(op, output, arguments), attributes.get("offset", 0))
            return output.storage.data if in_place else None

        return kernel

    def _put(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.ascontiguousarray(value)

    def _put_weight(self, weight: Quantized) -> RowWeight | FloatWeight | ScaledWeight:
        if isinstance(weight, GroupQuantizedMatrix):
            return ScaledWeight.of(weight)
        return FloatWeight.of(weight) if self._calls is None else RowWeight.of(weight)

    def _open_slot(self, nbytes: int) -> mmap.mmap:
        return memory_for(nbytes)

    def _stage(self, memory: mmap.mmap, weight: Weight) -> Any:
        """Read a weight from its file, if it has one in the form of the kernels."""
        extent = weight.extent if isinstance(weight, QuantizedMatrix) else None
        if extent is None or self._calls is None:
            return super()._stage(memory, weight)
        assert isinstance(weight, QuantizedMatrix)
        k, n = weight.shape
        values = self.reader(extent.path).read(extent.start, k * n, memory)
        return RowWeight(values.view(np.int8).reshape(n, k), weight.scales)

    def files(self) -> dict[Path, int]:
        """Return the files that weights are read from while they stream, and their bytes."""
        return {path: reader.nbytes for path, reader in self._readers.items()}

    def reader(self, path: Path) -> DiskReader:
        """Return what reads weights from a file; the way is measured the first time."""
        with self._readers_lock:
            if path not in self._readers:
                self._readers[path] = DiskReader(path)
            return self._readers[path]

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents: npt.NDArray[Any] = array.data
        # Others' results come to lie in the arena where this one does.
        return contents.copy() if isinstance(array.storage, Result) else contents.view()

    def _write(self, output: DeviceArray, value: npt.NDArray[Any]) -> None:
        output.data[...] = value

    def _zeros(
        self, _inputs: Sequence[DeviceArray], output: DeviceArray, _attributes: dict[str, Any]
    ) -> npt.NDArray[Any]:
        return np.zeros(output.shape, output.dtype)

    def _drop(self, data: Any) -> None:
        """There is nothing to release: an array goes with its last reference."""

    def _finish(self) -> None:
        """Kernels have finished when they return."""

    def _close(self) -> None:
        self.arena.drop()
        self._forget_arena()
        for reader in self._readers.values():
            reader.close()
        if self._threads_before is not None:
            set_blas_threads(self._threads_before)

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        in_float32 = self._calls is None or isinstance(weight, GroupQuantizedMatrix)
        if isinstance(weight, Quantized) and in_float32:
            # float32 instead of INT8; the rest as it is
            return weight.nbytes + (4 - 1) * weight.values.size
        return weight.nbytes


def _is_native(op: str, attributes: dict[str, Any]) -> bool:
    return op in ARGUMENTS and attributes.get("softmax") in (None, "exact")


def describe_kernels(native: Native) -> str:
    """Return which kernels the device has with this library, for people."""
    if native.library is not None:
        return f"kernels in C ({native.form})"
    return f"numpy kernels ({native.form}; for the fast ones: {HOW_TO_GET})"


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
