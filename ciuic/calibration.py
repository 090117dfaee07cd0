"""Calibration: measures what tasks and transfers take on a device.

Covers the operators that models spend their time in, decoding and reading a prompt, over a range of
sizes; the cost model scales from the nearest one to sizes between (`ciuic.scheduler.cost`). Tasks
are timed as they run later: on the device's queue, through the runtime.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ciuic.abi.numerics import W4_GROUP
from ciuic.devices import Device
from ciuic.errors import DeviceError, OutOfMemory
from ciuic.ops.operator import Shape
from ciuic.quantize import QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized
from ciuic.runtime import Runtime
from ciuic.scheduler.cost import Calibrated, Calibration, Link, roofline_seconds
from ciuic.scheduler.executor import Input

Report = Callable[[str, int, int], None]

TOKENS = (1, 16, 256)  # decoding; a few sequences, or a short prompt; a part of a long prompt
MATRICES = ((512, 512), (512, 2048), (2048, 512), (2048, 2048), (4096, 4096))  # (k, n)
WIDTHS = (512, 2048)
HEADS, HEAD_DIM = 8, 64
CONTEXTS = (256, 1024)  # rows of a cache that attention reads
LINK_BYTES = (1 << 10, 1 << 23)
REPEATS = 3  # at least
SECONDS = 0.2  # of one kind of task, so long is it repeated
LONG = 1.0  # seconds; a kind that is expected to take longer is left out


class Kind(NamedTuple):
    """A kind of task: operator, inputs by shape (int32 of positions aside), attributes."""

    op: str
    inputs: tuple[Shape, ...]
    attributes: dict[str, Any]


def kinds() -> Iterator[Kind]:
    """Yield the kinds of task that are measured, of each operator the smallest first."""
    for op in ("linear", "linear_int4", "linear_float32"):
        for t in TOKENS:
            for k, n in MATRICES:
                yield Kind(op, ((t, k), (k, n)), {})
    for t in TOKENS:
        for width in WIDTHS:
            rows = (t, width)
            yield Kind("rms_norm", (rows, (width,)), {"eps": 1e-6})
            yield Kind("add", (rows, rows), {})
            yield Kind("silu_mul", (rows, rows), {})
            yield Kind("softmax", (rows,), {"scale": 1.0})
        yield Kind("rope", ((t, HEADS, HEAD_DIM), (t,)), {"theta": 1e4})
        for context in CONTEXTS:
            cache = (context, HEADS, HEAD_DIM)
            attributes = {"offset": context - t, "scale": HEAD_DIM**-0.5}
            yield Kind("attention", ((t, HEADS, HEAD_DIM), cache, cache), attributes)


def calibrate(runtime: Runtime, device: Device, report: Report) -> Calibration:
    """Return what tasks and transfers take on a device; operators without a kernel are left out.

    Raises
    ------
    DeviceError
        If the device fails at everything.
    """
    supported = [kind for kind in kinds() if device.supports(kind.op, **kind.attributes)]
    found: list[Calibrated] = []
    failure: Exception | None = None
    for done, kind in enumerate(supported, start=1):
        roofline = roofline_seconds(device, kind.op, kind.inputs, kind.attributes)
        if _expected(found, kind.op, roofline) <= LONG:
            try:
                seconds = _seconds(runtime, device, kind)
            except (DeviceError, OutOfMemory) as error:
                failure = error
            else:
                offset = int(kind.attributes.get("offset", 0))
                found.append(Calibrated(kind.op, kind.inputs, offset, seconds, roofline))
        report(f"calibrating {device.uri}", done, len(supported))
    if failure is not None and not found:
        raise failure
    return Calibration(tuple(found), None if device.host_memory else _link(device))


def _expected(found: list[Calibrated], op: str, roofline: float) -> float:
    """Return the seconds that a kind may take, going by the last of its operator."""
    last = next((task for task in reversed(found) if task.op == op), None)
    return 0.0 if last is None else last.seconds * roofline / last.roofline


def _seconds(runtime: Runtime, device: Device, kind: Kind) -> float:
    """Return the median time of a kind of task on the device's queue."""
    rng = np.random.default_rng(0)
    weighed = kind.op.startswith("linear")
    last = len(kind.inputs) - 1
    inputs: list[Input] = [
        _weight(kind.op, shape, rng) if weighed and index == last else _values(kind, index, rng)
        for index, shape in enumerate(kind.inputs)
    ]
    placed = [runtime.place(value, device) for value in inputs]
    try:
        runtime.run(kind.op, placed, device=device, **kind.attributes).numpy()  # compiles, warms up
        trace = runtime.start_trace()
        start = time.perf_counter()
        count = 0
        while count < REPEATS or time.perf_counter() - start < SECONDS:
            runtime.run(kind.op, placed, device=device, **kind.attributes)
            runtime.synchronize()
            count += 1
        runtime.stop_trace(trace)
    finally:
        for value in inputs:
            if isinstance(value, Quantized):
                device.evict(value)
    times = [one.seconds for one in trace.records if (one.device, one.op) == (device.uri, kind.op)]
    return statistics.median(times)


def _values(kind: Kind, index: int, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = kind.inputs[index]
    if kind.op == "rope" and index == 1:
        return np.arange(shape[0], dtype=np.int32)
    return rng.standard_normal(shape, np.float32)


def _weight(op: str, shape: Shape, rng: np.random.Generator) -> Input:
    """Return a random weight (k, n) in the form that an operator takes."""
    k, n = shape
    if op == "linear_float32":
        return rng.standard_normal(shape, np.float32)
    scales = rng.uniform(0.5, 1.0, n).astype(np.float32)
    if op == "linear":
        return QuantizedMatrix(rng.integers(-127, 128, shape, np.int8), scales)
    groups = np.tile(scales, (-(-k // W4_GROUP), 1))
    return GroupQuantizedMatrix.encode(rng.integers(-8, 8, shape, np.int8), groups)


def _link(device: Device) -> Link:
    """Return latency and seconds a byte of the way to the device and back, their mean."""
    few, many = (_transfer_seconds(device, nbytes) for nbytes in LINK_BYTES)
    per_byte = max(many - few, 1e-3 * many) / (LINK_BYTES[1] - LINK_BYTES[0])
    return Link(max(0.0, few - per_byte * LINK_BYTES[0]), per_byte)


def _transfer_seconds(device: Device, nbytes: int) -> float:
    values = np.ones(nbytes // 4, np.float32)
    times = []
    for _ in range(REPEATS + 1):  # the first one warms up
        start = time.perf_counter()
        array = device.adopt(values)
        device.synchronize()
        array.numpy()
        times.append((time.perf_counter() - start) / 2)
    return statistics.median(times[1:])
