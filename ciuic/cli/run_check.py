"""The checks of ``ciuic run --check``: the same text on the CPU alone, FPGA layers bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from ciuic import reference
from ciuic.devices import Device, DeviceArray
from ciuic.models.continuation import Continuation
from ciuic.models.model import Model
from ciuic.models.placed import HOST, Placed
from ciuic.models.progress import Report
from ciuic.models.sampling import SamplingOptions
from ciuic.ops.linear import rescale
from ciuic.ops.linear_int4 import add_offsets
from ciuic.quantize import Float32Array, quantize_rows, rotate
from ciuic.quantize_int4 import GroupQuantizedMatrix, Quantized

ON_CPU = "the same on the CPU alone"
ON_FPGA = "FPGA layers against the golden model"
PROMPT_TOKENS = 64  # at most so many go through the layers that are compared
GEMM_ROWS = 8  # and so many into the products that are compared one by one
LAYERS_PER_DEVICE = 3  # spread over a device's layers: each has the same shapes


@dataclass(frozen=True, kw_only=True)
class LayerCheck:
    """One layer that was on an FPGA.

    Attributes
    ----------
    layer, device
        Which layer, and the device's URI.
    tokens
        Tokens of the prompt that went through it.
    tasks
        Operator -> tasks of the device that were compared.
    equal
        Whether every matrix product, and the layer's output, equal the golden model bit for bit.
    """

    layer: int
    device: str
    tokens: int
    tasks: dict[str, int]
    equal: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was checked.

    Attributes
    ----------
    same_tokens
        Whether the CPU alone wrote the same tokens.
    cpu_text
        What the CPU alone wrote.
    layers
        Checks of layers that were on an FPGA, a few of each device.
    """

    same_tokens: bool
    cpu_text: str
    layers: list[LayerCheck] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything held."""
        return self.same_tokens and all(layer.equal for layer in self.layers)


def check(
    model: Model,
    generation: Continuation,
    sampling: SamplingOptions,
    stop: Sequence[str],
    report: Report,
) -> Check:
    """Run the prompt of a finished generation again on the CPU alone and compare.

    Layers that are on an FPGA compute there what the overlay computes, its attention included, so
    that the text must be the same.
    """
    devices = {
        index: model.runtime.device(layer.device) for index, layer in enumerate(model.layers)
    }
    fpga = {index: device for index, device in devices.items() if device.kind == "FPGA"}
    with _on_cpu(model, fpga):
        total = len(generation.ids)
        again = model.generate(generation.prompt_ids, total, sampling=sampling, stop=stop)
        for _ in again:
            report(ON_CPU, min(len(again.ids), total - 1), total)
        report(ON_CPU, total, total)
        layers = _check_layers(model, generation.prompt_ids, _sample(fpga), report)
    return Check(same_tokens=again.ids == generation.ids, cpu_text=again.text, layers=layers)


@contextmanager
def _on_cpu(model: Model, fpga: dict[int, Device]) -> Iterator[None]:
    """Have all layers on the CPU, those of an FPGA in its number format."""
    before = [(layer, layer.device, layer.as_fpga, layer.attention) for layer in model.layers]
    head = model.head_device
    try:
        for index, layer in enumerate(model.layers):
            layer.device = HOST
            layer.as_fpga = layer.as_fpga or index in fpga
            if index in fpga:
                layer.attention = layer.attention or fpga[index].attention
        model.head_device = HOST
        yield
    finally:
        for layer, device, as_fpga, attention in before:
            layer.device, layer.as_fpga, layer.attention = device, as_fpga, attention
        model.head_device = head


def _sample(fpga: dict[int, Device]) -> dict[int, Device]:
    """Return a few layers of each device, the first and last among them."""
    chosen = {}
    for device in dict.fromkeys(fpga.values()):
        layers = [index for index, on in fpga.items() if on is device]
        for at in np.linspace(0, len(layers) - 1, LAYERS_PER_DEVICE).astype(int):
            chosen[layers[at]] = device
    return chosen


def _check_layers(
    model: Model, prompt_ids: list[int], chosen: dict[int, Device], report: Report
) -> list[LayerCheck]:
    """Compare layers with the CPU's on the hidden states that the prompt gives them."""
    checks: list[LayerCheck] = []
    if not chosen:
        return checks
    hidden = model.embed(prompt_ids[:PROMPT_TOKENS])  # (t, dim)
    for index, layer in enumerate(model.layers[: max(chosen) + 1]):
        expected = layer.submit(hidden)
        if index in chosen:
            checks.append(_check_layer(model, index, chosen[index], hidden, expected))
            report(ON_FPGA, len(checks), len(chosen))
        hidden = expected
    return checks


def _check_layer(
    model: Model, index: int, device: Device, hidden: DeviceArray, expected: DeviceArray
) -> LayerCheck:
    """Compare a layer's output, and the product with each of its matrices, bit for bit."""
    layer, before = model.layers[index], _tasks(device)
    equal = _same_bits(layer.submit(hidden, device=device), expected)
    rows = hidden.numpy()[:GEMM_ROWS]
    for _, weight in layer.weights.on("FPGA"):
        if isinstance(weight, Quantized):
            x = np.resize(rows, (len(rows), weight.shape[0]))  # any width from real values
            got = Placed(model.runtime, device).linear(x, weight)
            equal &= _same_bits(got, _golden(x, weight))
    ran = {op: count - before.get(op, 0) for op, count in _tasks(device).items()}
    return LayerCheck(
        layer=index,
        device=device.uri,
        tokens=hidden.shape[0],
        tasks={op: count for op, count in ran.items() if count},
        equal=equal,
    )


def _golden(x: Float32Array, weight: Quantized) -> Float32Array:
    """Return x (t, k) times a weight (k, n) by the golden model."""
    if isinstance(weight, GroupQuantizedMatrix):
        values, scales = quantize_rows(x)
        products = reference.gemm_w4(values, weight.values, weight.scales)
        return rescale(add_offsets(products, values, weight.offsets), scales, weight.units, None)
    values, scales = quantize_rows(rotate(x, weight.block))
    products = reference.gemm(values, weight.values)
    return rescale(products.astype(np.float32), scales, weight.scales, None)


def _tasks(device: Device) -> dict[str, int]:
    device.synchronize()
    return {op: count.tasks for op, count in device.statistics.ops.items()}


def _same_bits(got: DeviceArray, expected: DeviceArray | Float32Array) -> bool:
    want = expected if isinstance(expected, np.ndarray) else expected.numpy()
    return got.shape == want.shape and got.numpy().tobytes() == want.tobytes()
