"""The OpenCL device: a GPU, or a processor that stands in for one.

Weights stay on the device; activations pass from operator to operator without leaving it. The
integers of INT8 layers are those of the CPU; floating-point results may differ in the last digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.errors import CiuicError, DeviceNotFound, ShapeError
from ciuic.expression import Program
from ciuic.ops.rope import frequencies
from ciuic.quantize import QuantizedMatrix
from ciuic.reference.gemm import EXACT_FLOAT32_TERMS

from .array import DeviceArray
from .base import Device, Kernel, Kind, Roofline, Weight
from .opencl_expression import can_fuse, fused_source
from .opencl_runtime import INSTALL, build, is_cpu, opencl, working_devices

KIND: Kind = "GPU"
GROUP = 64  # work-items that share a row
ROWS = 8  # of a work-item, in products with more than one token
LANES = 8  # elements of a head that a work-item of attention has
# Of INT8 products: columns of a work-item, and columns of a weight that lie together. A processor
# wants whole vectors and a contiguous stream for each work-item, a GPU neighbours side by side.
COLUMNS_OF_CPU, BLOCK_OF_CPU = 16, 16
COLUMNS_OF_GPU, BLOCK_OF_GPU = 4, 64
# The code has vectors already: the compiler must not make vectors of work-items.
LONE_WORK_ITEMS = "-DLONE=__attribute__((intel_vec_len_hint(1)))"
CORRECTLY_ROUNDED = "-cl-fp32-correctly-rounded-divide-sqrt"
OPS = (
    *("linear", "linear_float32", "rms_norm", "rope", "attention", "softmax", "silu_mul", "add"),
    *("embedding", "kv_append", "slice_rows", "expression"),
)

Inputs = Sequence[DeviceArray]


class OpenclWeight(NamedTuple):
    """An INT8 weight on the device: (n / block, k, block), column scales; n padded to blocks."""

    values: Any
    scales: Any


class OpenclDevice(Device):
    """One OpenCL device.

    Parameters
    ----------
    uri
        The name it was opened by.
    device
        The `pyopencl.Device`.
    """

    kind = KIND
    _drops = True  # the pool's buffers must be released on the queue thread

    def __init__(self, uri: str, device: Any) -> None:
        cl = opencl()
        self.name = " ".join(device.name.split())
        self.emulated = is_cpu(device)
        self.host_memory = False
        self.roofline = Roofline(
            flops_per_second=1e9 * device.max_compute_units * (8 if self.emulated else 200),
            bytes_per_second=1e10 if self.emulated else 2e11,
            link_bytes_per_second=5e9,
            task_seconds=2e-5,
        )
        self._context = cl.Context([device])
        self._cl_queue = cl.CommandQueue(self._context)
        self._pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(self._cl_queue))
        rounded = device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        self._real_bytes = 8 if "cl_khr_fp64" in device.extensions.split() else 4
        self._columns, self._block = (
            (COLUMNS_OF_CPU, BLOCK_OF_CPU) if is_cpu(device) else (COLUMNS_OF_GPU, BLOCK_OF_GPU)
        )
        self._options = [
            *(f"-DGROUP={GROUP}", f"-DROWS={ROWS}", f"-DLANES={LANES}"),
            *(f"-DCOLUMNS={self._columns}", f"-DBLOCK={self._block}"),
            f"-DEXACT_TERMS={EXACT_FLOAT32_TERMS}",
            *([LONE_WORK_ITEMS] if is_cpu(device) else ["-DLONE="]),
            *([CORRECTLY_ROUNDED] if rounded else []),
        ]
        source = files(__package__).joinpath("opencl_kernels.cl").read_text()
        self._program = build(self._context, source, self._options)
        self._cl_kernels: dict[str, Any] = {}
        self._fused: dict[Program, Any] = {}
        self._frequencies: dict[tuple[int, float], Any] = {}
        super().__init__(uri, device.global_mem_size)

    # What a back end gives.

    def _load_kernels(self) -> dict[str, Kernel]:
        return {op: partial(self._timed, getattr(self, f"_{op}")) for op in OPS}

    def _accepts(self, op: str, attributes: dict[str, Any]) -> bool:
        if op == "attention":
            return attributes.get("softmax") in (None, "exact")
        program = attributes.get("program")
        return program is None or can_fuse(program)

    def _put(self, value: npt.NDArray[Any]) -> Any:
        buffer = self._pool.allocate(max(1, value.nbytes))
        if value.nbytes:
            contents = np.ascontiguousarray(value)
            opencl().enqueue_copy(self._cl_queue, buffer, contents, is_blocking=True)
        return buffer

    def _put_weight(self, weight: QuantizedMatrix) -> OpenclWeight:
        k, n = weight.shape
        values = np.zeros((k, _up(n, self._block)), np.int8)
        values[:, :n] = weight.values
        blocks = values.reshape(k, -1, self._block).transpose(1, 0, 2)
        return OpenclWeight(self._put(blocks), self._put(self._padded(weight.scales)))

    def _padded(self, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return values of columns (n,), padded with zeros to whole blocks."""
        return np.pad(values, (0, -len(values) % self._block))

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents = np.empty(array.shape, array.dtype)
        if contents.nbytes:
            opencl().enqueue_copy(self._cl_queue, contents, array.data, is_blocking=True)
        return contents

    def _zeros(self, _inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        return self._put(np.zeros(output.shape, output.dtype))

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        if isinstance(weight, QuantizedMatrix):
            k, n = weight.shape
            return (k + weight.scales.itemsize) * _up(n, self._block)
        return weight.nbytes

    def _drop(self, data: Any) -> None:
        """Let go of data: the pool takes its buffers back."""

    def _finish(self) -> None:
        self._cl_queue.finish()

    def _close(self) -> None:
        self._cl_queue.finish()
        self._dropped.clear()
        self._pool.stop_holding()

    # Launching.

    def _timed(
        self,
        kernel: Callable[[Inputs, DeviceArray, dict[str, Any]], Any],
        inputs: Inputs,
        output: DeviceArray,
        attributes: dict[str, Any],
    ) -> Any:
        """Run a kernel to its end, so that its time is its own."""
        data = kernel(inputs, output, attributes)
        self._cl_queue.finish()
        return data

    def _launch(
        self, name: str, size: tuple[int, ...], *arguments: Any, group: bool = False
    ) -> None:
        """Start a kernel over ``size`` work-items, or over so many groups of `GROUP`."""
        kernel = self._cl_kernels.get(name)
        if kernel is None:
            kernel = self._cl_kernels[name] = opencl().Kernel(self._program, name)
        numbers = (np.int32(a) if isinstance(a, int) else a for a in arguments)
        local = (GROUP,) if group else None
        kernel(self._cl_queue, (size[0] * GROUP,) if group else size, local, *numbers)

    def _new(self, nbytes: int) -> Any:
        return self._pool.allocate(max(1, nbytes))

    # Kernels.

    def _linear(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        x, weight = inputs[0], inputs[1].data
        (t, k), n = x.shape, output.shape[1]
        values, scales = self._new(x.nbytes), self._new(4 * t)
        self._launch("quantize_rows", (t,), x.data, values, scales, k, group=True)
        result = self._new(output.nbytes)
        bias = self._padded_bias(inputs[2]) if len(inputs) > 2 else scales  # not read without one
        name, rows = ("linear_row", 1) if t == 1 else ("linear_rows", ROWS)
        self._launch(
            name,
            (_up(n, self._block) // self._columns, -(-t // rows)),
            *(values, scales, weight.values, weight.scales, bias, result),
            *(t, k, n, int(len(inputs) > 2)),
        )
        return result

    def _padded_bias(self, bias: DeviceArray) -> Any:
        if bias.shape[0] % self._block == 0:
            return bias.data
        padded = self._new(4 * _up(bias.shape[0], self._block))
        self._copy(bias.data, padded, bias.nbytes)
        return padded

    def _linear_float32(
        self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]
    ) -> Any:
        x, weight = inputs[:2]
        (t, k), n = x.shape, output.shape[1]
        bias = inputs[2] if len(inputs) > 2 else x  # any buffer: it is not read
        result = self._new(output.nbytes)
        groups = -(-n // self._columns)
        if n < self._columns:
            name, size = "float32_narrow", (n, t)
        elif t == 1:
            name, size = "float32_row", (groups, 1)
        else:
            name, size = "float32_rows", (groups, -(-t // ROWS))
        has_bias = int(len(inputs) > 2)
        self._launch(name, size, x.data, weight.data, bias.data, result, t, k, n, has_bias)
        return result

    def _rms_norm(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        x, weight = inputs
        result = self._new(output.nbytes)
        eps = np.float32(attributes["eps"])
        self._launch(
            "rms_norm", x.shape[:1], x.data, weight.data, result, x.shape[1], eps, group=True
        )
        return result

    def _rope(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        x, positions = inputs
        t, heads, head_dim = x.shape
        key = (head_dim, attributes["theta"])
        if key not in self._frequencies:
            self._frequencies[key] = self._put(frequencies(*key))
        result = self._new(output.nbytes)
        self._launch(
            "rope",
            (head_dim // 2, heads, t),
            *(x.data, positions.data, self._frequencies[key], result),
            *(heads, head_dim // 2, int(attributes.get("interleaved", False))),
        )
        return result

    def _attention(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        q, keys, values = inputs
        (t, heads, head_dim), kv_heads = q.shape, keys.shape[1]
        offset = attributes["offset"]
        visible = offset + t
        scores = self._new(4 * t * heads * visible)
        weights = self._new(self._real_bytes * t * heads * visible)
        result = self._new(output.nbytes)
        sizes = (heads, kv_heads, head_dim, visible, offset)
        scale = np.float32(attributes["scale"])
        self._launch(
            "attention_scores", (visible, heads, t), q.data, keys.data, scores, *sizes, scale
        )
        self._launch(
            "attention_weights", (t * heads,), scores, weights, heads, visible, offset, group=True
        )
        name, rows = ("attention_mix_row", 1) if t == 1 else ("attention_mix_rows", ROWS)
        size = (-(-head_dim // LANES), heads, -(-t // rows))
        self._launch(name, size, weights, values.data, result, *sizes)
        return result

    def _softmax(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        result = self._new(output.nbytes)
        rows, cols = output.shape
        scale = np.float32(attributes.get("scale", 1.0))
        self._launch("softmax", (rows,), inputs[0].data, result, cols, scale, group=True)
        return result

    def _silu_mul(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        return self._elementwise("silu_mul", inputs, output)

    def _add(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        return self._elementwise("add", inputs, output)

    def _elementwise(self, name: str, inputs: Inputs, output: DeviceArray) -> Any:
        result = self._new(output.nbytes)
        self._launch(name, (output.nbytes // 4,), *(x.data for x in inputs), result)
        return result

    def _embedding(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        ids, table = inputs
        numbers = self._get(ids)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < table.shape[0]:
            raise ShapeError(
                f"ids must be from 0 to {table.shape[0] - 1}, "
                f"not {numbers.min()} to {numbers.max()}"
            )
        result = self._new(output.nbytes)
        t, d = output.shape
        self._launch("embedding", (d, t), ids.data, table.data, result, d)
        return result

    def _kv_append(self, inputs: Inputs, _output: DeviceArray, attributes: dict[str, Any]) -> Any:
        cache, rows = inputs
        offset = attributes["offset"] * (cache.nbytes // cache.shape[0])
        self._copy(rows.data, cache.data, rows.nbytes, dst_offset=offset)
        return cache.data

    def _slice_rows(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        result = self._new(output.nbytes)
        offset = attributes["start"] * (output.nbytes // output.shape[0])
        self._copy(inputs[0].data, result, output.nbytes, src_offset=offset)
        return result

    def _copy(self, source: Any, target: Any, nbytes: int, **offsets: int) -> None:
        opencl().enqueue_copy(self._cl_queue, target, source, byte_count=nbytes, **offsets)

    def _expression(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        program: Program = attributes["program"]
        kernel = self._fused.get(program)
        if kernel is None:
            built = build(self._context, fused_source(program), self._options)
            kernel = self._fused[program] = opencl().Kernel(built, "fused")
        result = self._new(output.nbytes)
        cols = program.inputs[0][-1]
        rows = int(np.prod(program.inputs[0][:-1], dtype=np.int64))
        kernel(self._cl_queue, (rows,), None, *(x.data for x in inputs), result, np.int32(cols))
        return result


def _up(value: int, step: int) -> int:
    return -(-value // step) * step


def open_device(uri: str) -> OpenclDevice:
    """Open an OpenCL device: ``opencl`` is the first, ``opencl:1`` the second.

    Raises
    ------
    DeviceNotFound
        If there is no such device, or none that works.
    ToolMissing
        If pyopencl is not installed.
    """
    match = re.fullmatch(r"opencl(?::(\d+))?", uri)
    devices = working_devices()
    if match is None:
        raise DeviceNotFound(uri, "an OpenCL device must be 'opencl' or 'opencl:<number>'")
    if not devices:
        raise DeviceNotFound(uri, f"no OpenCL runtime works here; a CPU runtime: {INSTALL}")
    number = int(match[1] or 0)
    if number >= len(devices):
        raise DeviceNotFound(uri, f"the number must be below {len(devices)}, not {number}")
    return OpenclDevice(f"opencl:{number}", devices[number])


@lru_cache(maxsize=2)
def list_devices(*, emulated: bool = True) -> list[str]:
    """Return the URIs of the devices that work here; without ``emulated``, those of GPUs."""
    try:
        found = working_devices()
    except CiuicError:
        return []
    return [
        f"opencl:{number}" for number, device in enumerate(found) if emulated or not is_cpu(device)
    ]
