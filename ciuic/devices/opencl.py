"""The OpenCL device: a GPU, or a processor that stands in for one.

Weights stay on the device; activations pass from operator to operator without leaving it, through
one arena (`arena`). The integers of INT8 layers are those of the CPU; floating-point results
may differ in the last digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.abi.numerics import W4_GROUP, W4_SHIFT
from ciuic.errors import CiuicError, DeviceNotFound, ShapeError
from ciuic.expression import Program
from ciuic.ops.rope import RopeScaling, frequencies
from ciuic.quantize import LARGEST_BLOCK
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized
from ciuic.reference.gemm import EXACT_FLOAT32_TERMS

from .arena import ArenaDevice
from .array import DeviceArray, Shape
from .base import Kernel, Kind, Weight
from .opencl_arena import ArenaBuffer
from .opencl_between import sizes_between
from .opencl_deepseek import OPS as DEEPSEEK_OPS
from .opencl_deepseek import DeepseekKernels
from .opencl_expression import can_fuse, fused_source, whole_shape
from .opencl_launch import Launching
from .opencl_runtime import INSTALL, build, device_errors, is_cpu, opencl, working_devices
from .opencl_tuning import Tuning, tuning_of
from .roofline import Roofline

KIND: Kind = "GPU"
ROWS = 8  # of a work-item, in products with more than one token
CORRECTLY_ROUNDED = "-cl-fp32-correctly-rounded-divide-sqrt"
OPS = (
    *(
        "linear",
        "linear_int4",
        "linear_float32",
        "hadamard",
        "rms_norm",
        "rope",
        "attention",
        "softmax",
    ),
    *("silu_mul", "add", "embedding", "kv_append", "slice_rows", "expression"),
    *DEEPSEEK_OPS,
)

Inputs = Sequence[DeviceArray]


class OpenclWeight(NamedTuple):
    """An INT8 or INT4 weight on the device; n is padded to blocks.

    Attributes
    ----------
    values : int8 (n / block, k, block)
    scales : float32 (n,)
        Of columns; of INT4 weights their units.
    group_scales : int16 (n / block, groups, block)
        None of INT8 weights.
    offsets : int32 (n / block, groups, block)
        None of weights without.
    """

    values: Any
    scales: Any
    group_scales: Any = None
    offsets: Any = None


class OpenclDevice(DeepseekKernels, Launching, ArenaDevice):
    """One OpenCL device.

    Parameters
    ----------
    uri
        The name it was opened by.
    device
        The `pyopencl.Device`.
    tuning
        By default that of its kind.
    """

    kind = KIND
    _drops = True  # the pool's buffers must be released on the queue thread

    def __init__(self, uri: str, device: Any, tuning: Tuning | None = None) -> None:
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
        self._driver = f"{device.platform.name}, driver {device.driver_version}"
        self._largest_buffer: int = device.max_mem_alloc_size
        self.tuning = tuning or tuning_of(device)
        rounded = device.single_fp_config & cl.device_fp_config.CORRECTLY_ROUNDED_DIVIDE_SQRT
        self._options = [
            *_definitions(**self.tuning._asdict()),
            *_definitions(rows=ROWS, exact_terms=EXACT_FLOAT32_TERMS),
            *_definitions(w4_group=W4_GROUP, w4_shift=W4_SHIFT, largest_block=LARGEST_BLOCK),
            *([CORRECTLY_ROUNDED] if rounded else []),
        ]
        with device_errors(uri):
            self._context = cl.Context([device])
            self._cl_queue = cl.CommandQueue(self._context)
            self._copy_queue = cl.CommandQueue(self._context)  # of the copy lane
            self._pool = cl.tools.MemoryPool(cl.tools.ImmediateAllocator(self._cl_queue))
            self._program = self._build(
                _source("opencl_kernels.cl") + _source("opencl_deepseek.cl")
            )
        arena = ArenaBuffer(uri, self._context, self._cl_queue)
        self._open_arena(arena, device.mem_base_addr_align // 8)  # it is in bits
        self._cl_kernels = {}
        self._frequencies: dict[tuple[int, float, RopeScaling | None], Any] = {}
        super().__init__(uri, device.global_mem_size)

    # What a back end gives.

    def _load_kernels(self) -> dict[str, Kernel]:
        return {op: partial(self._timed, getattr(self, f"_{op}")) for op in OPS}

    @property
    def fingerprint(self) -> str:
        """Name, platform and driver."""
        return f"{self.name}, {self._driver}"

    def sizes_between(
        self, op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any]
    ) -> Sequence[int]:
        """Return the bytes of each value between of a task."""
        return sizes_between(op, inputs, attributes, self.tuning)

    def _accepts(self, op: str, attributes: dict[str, Any]) -> bool:
        if op in ("attention", "latent_attention"):
            return attributes.get("softmax") in (None, "exact")
        program = attributes.get("program")
        return program is None or can_fuse(program)

    def _put(self, value: npt.NDArray[Any]) -> Any:
        buffer = self._new(value.nbytes)
        if value.nbytes:
            contents = np.ascontiguousarray(value)
            with device_errors(self.uri):
                opencl().enqueue_copy(self._cl_queue, buffer, contents, is_blocking=True)
        return buffer

    def _put_weight(self, weight: Quantized) -> OpenclWeight:
        return self._weight(weight, self._put)

    def _weight(self, weight: Quantized, put: Callable[[npt.NDArray[Any]], Any]) -> OpenclWeight:
        values = put(self._blocks(weight.values))
        if isinstance(weight, GroupQuantizedMatrix):
            units, scales = put(self._padded(weight.units)), self._blocks(weight.scales)
            offsets = None if weight.offsets is None else put(self._blocks(weight.offsets))
            return OpenclWeight(values, units, put(scales), offsets)
        return OpenclWeight(values, put(self._padded(weight.scales)))

    def _stage(self, memory: None, weight: Weight) -> Any:
        if isinstance(weight, Quantized):
            return self._weight(weight, self._put_aside)
        return self._put_aside(weight.value.host())

    def _put_aside(self, value: npt.NDArray[Any]) -> Any:
        """Return a buffer with an array's contents, by no queue and from no pool of kernels."""
        cl, contents = opencl(), np.ascontiguousarray(value)
        with device_errors(self.uri):
            buffer = cl.Buffer(self._context, cl.mem_flags.READ_ONLY, max(1, contents.nbytes))
            if contents.nbytes:
                cl.enqueue_copy(self._copy_queue, buffer, contents, is_blocking=True)
        return buffer

    def _blocks(self, matrix: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return a matrix (rows, n) as (n / block, rows, block)."""
        padded = self._padded(matrix)
        return padded.reshape(len(matrix), -1, self.tuning.block).transpose(1, 0, 2)

    def _padded(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return values of columns (..., n), padded with zeros to whole blocks."""
        spare = -values.shape[-1] % self.tuning.block
        return np.pad(values, [(0, 0)] * (values.ndim - 1) + [(0, spare)])

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        contents = np.empty(array.shape, array.dtype)
        if contents.nbytes:
            with device_errors(self.uri):
                opencl().enqueue_copy(self._cl_queue, contents, array.data, is_blocking=True)
        return contents

    def _write(self, output: DeviceArray, value: npt.NDArray[Any]) -> None:
        contents = np.ascontiguousarray(value)
        with device_errors(self.uri):
            opencl().enqueue_copy(self._cl_queue, output.data, contents, is_blocking=True)

    def _zeros(self, _inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        buffer = self._new(output.nbytes)
        with device_errors(self.uri):
            opencl().enqueue_fill_buffer(self._cl_queue, buffer, np.int8(0), 0, buffer.size)
        return buffer

    def _weight_bytes(self, weight: Weight | npt.NDArray[Any]) -> int:
        if isinstance(weight, Quantized):
            n = weight.shape[1]
            nbytes: int = weight.nbytes // n * self.tuning.up_to_blocks(n)
            return nbytes
        return weight.nbytes

    def _drop(self, data: Any) -> None:
        """Let go of data: the pool takes its buffers back."""

    def _finish(self) -> None:
        self._cl_queue.finish()

    def _close(self) -> None:
        self._cl_queue.finish()
        self._dropped.clear()
        self.arena.drop()
        self._forget_arena()
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
        with device_errors(self.uri):
            self._fit(output)
            data = kernel(inputs, output, attributes)
            self._cl_queue.finish()
        return data

    def _build(self, source: str) -> Any:
        return build(self._context, _source("opencl_prelude.cl") + source, self._options)

    def _new(self, nbytes: int) -> Any:
        """Return a buffer that is no part of the arena."""
        if nbytes > self._largest_buffer:
            raise self._too_large(nbytes)
        with device_errors(self.uri):
            return self._pool.allocate(max(1, nbytes))

    # Kernels.

    def _linear(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        x, weight = inputs[0], inputs[1].data
        (t, k), n = x.shape, output.shape[1]
        values, scales = self._quantized_rows(x)
        result = output.data
        bias = self._padded_bias(inputs[2]) if len(inputs) > 2 else scales  # not read without one
        name, rows = ("linear_row", 1) if t == 1 else ("linear_rows", ROWS)
        self._launch(
            name,
            (self.tuning.up_to_blocks(n) // self.tuning.columns, -(-t // rows)),
            *(values, scales, weight.values, weight.scales, bias, result),
            *(t, k, n, int(len(inputs) > 2)),
        )
        return result

    def _linear_int4(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        x, weight = inputs[0], inputs[1].data
        (t, k), n = x.shape, output.shape[1]
        values, scales = self._quantized_rows(x)
        result = output.data
        bias = self._padded_bias(inputs[2]) if len(inputs) > 2 else scales  # not read without one
        offsets = weight.offsets or scales  # not read without any
        self._launch(
            "linear_int4",
            (self.tuning.up_to_blocks(n) // self.tuning.columns, t),
            *(values, scales, weight.values, weight.group_scales, offsets, weight.scales),
            *(bias, result, k, n, int(weight.offsets is not None), int(len(inputs) > 2)),
        )
        return result

    def _quantized_rows(self, x: DeviceArray) -> tuple[Any, Any]:
        """Return x (t, k) as integers, held as float32, and their scales (t,)."""
        t, k = x.shape
        values, scales = self._next_between(), self._next_between()
        self._launch("quantize_rows", (t,), x.data, values, scales, k, group=True)
        return values, scales

    def _padded_bias(self, bias: DeviceArray) -> Any:
        if bias.shape[0] % self.tuning.block == 0:
            return bias.data
        padded = self._next_between()
        self._copy(bias.data, padded, bias.nbytes)
        return padded

    def _linear_float32(
        self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]
    ) -> Any:
        x, weight = inputs[:2]
        (t, k), n = x.shape, output.shape[1]
        bias = inputs[2] if len(inputs) > 2 else x  # any buffer: it is not read
        result = output.data
        groups = -(-n // self.tuning.columns)
        if n < self.tuning.columns:
            name, size = "float32_narrow", (n, t)
        elif t == 1:
            name, size = "float32_row", (groups, 1)
        else:
            name, size = "float32_rows", (groups, -(-t // ROWS))
        has_bias = int(len(inputs) > 2)
        self._launch(name, size, x.data, weight.data, bias.data, result, t, k, n, has_bias)
        return result

    def _hadamard(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        result, block = output.data, attributes["block"]
        count = output.nbytes // 4 // block
        self._launch("hadamard", (count,), inputs[0].data, result, block)
        return result

    def _rms_norm(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        x, weight = inputs
        result = output.data
        eps = np.float32(attributes["eps"])
        self._launch(
            "rms_norm", x.shape[:1], x.data, weight.data, result, x.shape[1], eps, group=True
        )
        return result

    def _rope(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        x, positions = inputs
        t, heads, head_dim = x.shape
        key = (head_dim, attributes["theta"], attributes.get("scaling"))
        if key not in self._frequencies:
            self._frequencies[key] = self._put(frequencies(*key))
        result = output.data
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
        scores, weights = self._next_between(), self._next_between()
        result = output.data
        sizes = (heads, kv_heads, head_dim, visible, offset)
        scale = np.float32(attributes["scale"])
        self._launch(
            "attention_scores", (visible, heads, t), q.data, keys.data, scores, *sizes, scale
        )
        self._launch(
            "attention_weights", (t * heads,), scores, weights, heads, visible, offset, group=True
        )
        self._launch_mix(t, weights, values.data, result, *sizes)
        return result

    def _launch_mix(
        self,
        t: int,
        weights: Any,
        values: Any,
        result: Any,
        heads: int,
        kv_heads: int,
        head_dim: int,
        visible: int,
        offset: int,
    ) -> None:
        """Start the product of attention's weights and values (visible, kv_heads, head_dim)."""
        name, rows = ("attention_mix_row", 1) if t == 1 else ("attention_mix_rows", ROWS)
        size = (-(-head_dim // self.tuning.lanes), heads, -(-t // rows))
        sizes = (heads, kv_heads, head_dim, visible, offset)
        self._launch(name, size, weights, values, result, *sizes)

    def _softmax(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        result = output.data
        rows, cols = output.shape
        scale = np.float32(attributes.get("scale", 1.0))
        self._launch("softmax", (rows,), inputs[0].data, result, cols, scale, group=True)
        return result

    def _silu_mul(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        return self._elementwise("silu_mul", inputs, output)

    def _add(self, inputs: Inputs, output: DeviceArray, _attributes: dict[str, Any]) -> Any:
        return self._elementwise("add", inputs, output)

    def _elementwise(self, name: str, inputs: Inputs, output: DeviceArray) -> Any:
        result = output.data
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
        result = output.data
        t, d = output.shape
        self._launch("embedding", (d, t), ids.data, table.data, result, d)
        return result

    def _kv_append(self, inputs: Inputs, _output: DeviceArray, attributes: dict[str, Any]) -> Any:
        cache, rows = inputs
        offset = attributes["offset"] * (cache.nbytes // cache.shape[0])
        self._copy(rows.data, cache.data, rows.nbytes, dst_offset=offset)
        return cache.data

    def _slice_rows(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        result = output.data
        offset = attributes["start"] * (output.nbytes // output.shape[0])
        self._copy(inputs[0].data, result, output.nbytes, src_offset=offset)
        return result

    def _copy(self, source: Any, target: Any, nbytes: int, **offsets: int) -> None:
        if nbytes:
            opencl().enqueue_copy(self._cl_queue, target, source, byte_count=nbytes, **offsets)

    def _expression(self, inputs: Inputs, output: DeviceArray, attributes: dict[str, Any]) -> Any:
        program: Program = attributes["program"]
        source = fused_source(program)
        result = output.data
        *leading, cols = whole_shape(program)
        arguments = (*(x.data for x in inputs), result, cols)
        kernel = self._cl_kernels.get(source)
        if kernel is None:
            kernel = self._typed(source, opencl().Kernel(self._build(source), "fused"), arguments)
        self._start(kernel, (math.prod(leading),), *arguments, group=True)
        return result


def _definitions(**values: object) -> list[str]:
    return [f"-D{name.upper()}={value}" for name, value in values.items()]


def _source(name: str) -> str:
    return files(__package__).joinpath(name).read_text()


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


def list_devices(*, emulated: bool = True) -> list[str]:
    """Return the URIs of the devices that work here; without ``emulated``, those of GPUs."""
    try:
        found = working_devices()
    except CiuicError:
        return []
    return [
        f"opencl:{number}" for number, device in enumerate(found) if emulated or not is_cpu(device)
    ]
