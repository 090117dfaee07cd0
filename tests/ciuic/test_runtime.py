"""Runtime and executor: where operators run, what moves, what is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ciuic.devices import DeviceArray, Kernel
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.statistics import WAIT
from ciuic.errors import ShapeError, UsageError
from ciuic.ops import OPERATORS, CustomOperator, register_operator
from ciuic.quantize import quantize_columns
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor


class Half(CpuDevice):
    """A device of its own memory that has kernels for some operators only."""

    kind = "FPGA"
    host_memory = False

    def __init__(self, *ops: str) -> None:
        self._ops = ops
        super().__init__()
        self.uri = "half"

    def _load_kernels(self) -> dict[str, Kernel]:
        return {op: kernel for op, kernel in super()._load_kernels().items() if op in self._ops}

    def _accepts(self, op: str, attributes: dict[str, Any]) -> bool:
        return op != "softmax" or attributes.get("scale", 1.0) < 10


class Softmax(CustomOperator):
    """The overlay's pattern, behind a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def forward(self, x: CiuicTensor) -> CiuicTensor:
        x = x * self.factor
        e = (x - x.max(axis=-1, keepdims=True)).exp()
        return e / e.sum(axis=-1, keepdims=True)


class Shifted(CustomOperator):
    """Brings a tensor along and has two inputs."""

    def __init__(self) -> None:
        self.shift = CiuicTensor.from_numpy(np.arange(3, dtype=np.float32))

    def forward(self, x: CiuicTensor, y: CiuicTensor) -> CiuicTensor:
        return x * y + self.shift


register_operator("RuntimeTestSoftmax", Softmax)
register_operator("RuntimeTestShifted", Shifted)


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    made = Runtime()
    yield made
    made.manager.close()


@pytest.fixture
def half(runtime: Runtime) -> Iterator[Half]:
    with Half("linear", "softmax", "add") as device:
        runtime.device(device)
        yield device


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_results_are_handles_and_stay_where_they_are(runtime: Runtime) -> None:
    x = draw(0, 2, 3)
    doubled = runtime.run("add", [x, x])
    assert isinstance(doubled, DeviceArray)
    assert doubled.device.uri == "cpu"
    tensor = runtime.tensor(runtime.run("add", [doubled, doubled]))
    np.testing.assert_array_equal(runtime.numpy(tensor), 4 * x)


def test_arrays_move_to_where_they_are_used(runtime: Runtime, half: Half) -> None:
    x = draw(0, 4, 5)
    on_half = runtime.run("add", [x, x], device=half)
    assert on_half.device is half
    back = runtime.run("rms_norm", [on_half, np.ones(5, np.float32)], device="cpu", eps=1e-5)
    assert back.device.uri == "cpu"
    want = OPERATORS["rms_norm"].kernel(2 * x, np.ones(5, np.float32), eps=1e-5)
    np.testing.assert_array_equal(back.numpy(), want)
    runtime.synchronize()
    assert (half.statistics.bytes_in, half.statistics.bytes_out) == (2 * x.nbytes, x.nbytes)


def test_weights_move_once(runtime: Runtime, half: Half) -> None:
    weight, norm = quantize_columns(draw(1, 5, 6)), CiuicTensor.from_numpy(draw(2, 3, 6))
    for seed in range(3):
        x = draw(seed, 3, 5)
        y = runtime.run("add", [runtime.run("linear", [x, weight], device=half), norm], device=half)
        assert y.shape == (3, 6)
    runtime.synchronize()
    assert half.statistics.bytes_in == 3 * 60 + weight.nbytes + norm.nbytes


def test_what_a_device_has_no_kernel_for_runs_on_the_host_and_is_counted(
    runtime: Runtime, half: Half
) -> None:
    x = draw(0, 3, 4)
    runtime.reset_usage()
    y = runtime.run("silu_mul", [x, x], device=half)
    assert y.device.uri == "cpu"
    runtime.run("softmax", [x], device=half, scale=2.0)
    runtime.run("softmax", [x], device=half, scale=20.0)
    rows = {row.device: row for row in runtime.usage()}
    assert rows["half"].on_host == {"silu_mul": 1, "softmax": 1}
    assert rows["half"].ops == {"softmax": 1}
    assert rows["cpu"].ops == {"silu_mul": 1, "softmax": 1}
    assert rows["half"].share + rows["cpu"].share == pytest.approx(1)
    runtime.reset_usage()
    assert runtime.usage() == []


def test_a_custom_operator_runs_by_name(runtime: Runtime, half: Half) -> None:
    x, y = draw(0, 2, 3), draw(1, 2, 3)
    want = x * y + np.arange(3, dtype=np.float32)
    np.testing.assert_array_equal(runtime.run("RuntimeTestShifted", [x, y]).numpy(), want)
    runtime.reset_usage()
    result = runtime.run("RuntimeTestShifted", [x, y], device=half)
    np.testing.assert_array_equal(result.numpy(), want)
    rows = {row.device: row for row in runtime.usage()}
    assert rows["half"].on_host == {"Shifted": 1}
    assert rows["cpu"].ops == {"Shifted": 1}


def test_a_custom_softmax_runs_on_the_softmax_engine(runtime: Runtime, half: Half) -> None:
    x = draw(0, 2, 3, 7)
    runtime.reset_usage()
    result = runtime.run("RuntimeTestSoftmax", [x], device=half, factor=2.0)
    assert result.device is half
    e = np.exp(2 * x - (2 * x).max(axis=-1, keepdims=True))
    np.testing.assert_allclose(result.numpy(), e / e.sum(axis=-1, keepdims=True), rtol=1e-5)
    (row,) = [row for row in runtime.usage() if row.device == "half"]
    assert (row.ops, row.on_host) == ({"softmax": 1}, {})


def test_arguments_of_a_custom_operator_make_another_one(runtime: Runtime) -> None:
    x = draw(0, 2, 5)
    one = runtime.run("RuntimeTestSoftmax", [x]).numpy()
    two = runtime.run("RuntimeTestSoftmax", [x], factor=2.0).numpy()
    assert (one != two).any()
    np.testing.assert_array_equal(runtime.run("RuntimeTestSoftmax", [x], factor=1.0).numpy(), one)


def test_traces_hold_what_ran_while_they_did(runtime: Runtime) -> None:
    x = runtime.place(draw(0, 2, 3))
    runtime.run("add", [x, x])
    runtime.synchronize()
    trace = runtime.start_trace()
    runtime.run("silu_mul", [x, x])
    runtime.stop_trace(trace)
    runtime.run("add", [x, x])
    runtime.synchronize()
    assert [record.op for record in trace.records if record.op != WAIT] == ["silu_mul"]


def test_costs_are_learned_from_what_runs(runtime: Runtime) -> None:
    cpu = runtime.device("cpu")
    x = draw(0, 13, 3)
    assert not runtime.costs.is_measured(cpu, "add", [(13, 3), (13, 3)])
    runtime.run("add", [x, x])
    runtime.synchronize()
    assert runtime.costs.is_measured(cpu, "add", [(13, 3), (13, 3)])
    assert 0 < runtime.costs.seconds(cpu, "add", [(13, 3), (13, 3)], {}) < 1


def test_what_cannot_be_run_is_refused(runtime: Runtime) -> None:
    x = draw(0, 2, 3)
    with pytest.raises(UsageError, match=r"^operator must be registered or one of \['add', "):
        runtime.run("fly", [x])
    with pytest.raises(UsageError, match=r"^input must be an array, CiuicTensor, quantized"):
        runtime.run("add", [x, [1, 2]])  # type: ignore[list-item]
    with pytest.raises(ShapeError, match=f"^{re.escape('inputs of add must be two float32')}"):
        runtime.run("add", [x, draw(0, 2, 4)])
    weight = quantize_columns(draw(0, 2, 2))
    with pytest.raises(UsageError, match=r"^a custom operator's input must be a float tensor"):
        runtime.run("RuntimeTestSoftmax", [weight])
    with pytest.raises(TypeError, match=r"nonsense"):
        runtime.run("RuntimeTestSoftmax", [x], nonsense=1)


def test_the_host_serves_each_device_in_a_queue_of_its_own() -> None:
    runtime = Runtime(host_lanes=True)
    x = np.ones((2, 3), np.float32)
    for _ in range(2):
        result = runtime.run("add", [x, x], device="fpga:emulated?config=tiny")
        np.testing.assert_array_equal(result.numpy(), 2 * x)
    runtime.run("add", [x, x])
    assert {row.device: row.tasks for row in runtime.usage()} == {
        "cpu": 1,
        "cpu:1": 2,
        "fpga:emulated?config=tiny": 0,
    }
