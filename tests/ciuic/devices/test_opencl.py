"""The OpenCL device as a whole: names, memory, errors, and where data go."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.devices import DeviceManager, TaskRecord
from ciuic.devices.opencl import OpenclDevice, list_devices, open_device
from ciuic.errors import DeviceError, DeviceNotFound, OutOfMemory
from ciuic.ops import CustomOperator, register_operator
from ciuic.quantize import quantize_columns
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from .conftest import require_opencl

pytestmark = pytest.mark.opencl


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.fixture
def runtime() -> Any:
    require_opencl()
    runtime = Runtime()
    yield runtime
    runtime.manager.close()


def test_it_stands_in_for_a_gpu(gpu: OpenclDevice) -> None:
    assert gpu.kind == "GPU"
    assert gpu.name
    with DeviceManager() as manager:
        assert "opencl:0" in [device.uri for device in manager.get_devices("GPU")]
        assert manager.open("opencl") is manager.open("opencl:0")
    gpus = list_devices(emulated=False)
    assert gpus == list_devices()[: len(gpus)]
    assert ("opencl:0" in gpus) is not gpu.emulated


def test_wrong_names_say_what_is_there(gpu: OpenclDevice) -> None:
    with pytest.raises(DeviceNotFound, match=r"'opencl:99': the number must be below \d+, not 99$"):
        open_device("opencl:99")
    with pytest.raises(DeviceNotFound, match=r"must be 'opencl' or 'opencl:<number>'$"):
        open_device("opencl:x")


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.int8])
def test_arrays_come_back_as_they_were(gpu: OpenclDevice, dtype: type) -> None:
    array = (100 * normal(1, 3, 5)).astype(dtype)
    back = gpu.upload(array).numpy()
    assert back.dtype == dtype
    assert not back.flags.writeable
    np.testing.assert_array_equal(back, array)
    np.testing.assert_array_equal(gpu.zeros((2, 3), dtype).numpy(), np.zeros((2, 3), dtype))


def test_memory_is_given_back(gpu: OpenclDevice) -> None:
    before = gpu.used_bytes
    array = gpu.upload(normal(1, 100, 100))
    gpu.synchronize()
    assert gpu.used_bytes == before + 40_000
    del array
    assert gpu.used_bytes == before


def test_a_weight_counts_as_the_bytes_of_whole_blocks(gpu: OpenclDevice) -> None:
    before = gpu.used_bytes
    weight = quantize_columns(normal(1, 32, 3))
    gpu.hold(weight)
    assert gpu.used_bytes - before == gpu.weight_bytes(weight) == (32 + 4) * gpu.tuning.block
    gpu.evict(weight)
    gpu.synchronize()
    assert gpu.used_bytes == before


def test_a_buffer_that_is_too_large_is_refused_with_figures(
    gpu: OpenclDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_largest_buffer", 1000)
    with pytest.raises(OutOfMemory, match=r"^one buffer of opencl:0: 1,600 bytes wanted, 1,000 of"):
        gpu.zeros((20, 20)).numpy()


def test_errors_of_opencl_name_the_device(
    gpu: OpenclDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "_program", gpu._build("kernel void other() {}"))
    monkeypatch.setattr(gpu, "_cl_kernels", {})
    x = gpu.upload(normal(1, 2, 3))
    with pytest.raises(DeviceError, match=r"^opencl:0: .*INVALID_KERNEL_NAME"):
        gpu.submit("add", [x, x]).wait()


def test_q16_attention_is_left_to_others(gpu: OpenclDevice) -> None:
    assert gpu.supports("attention", offset=0, scale=1.0)
    assert gpu.supports("attention", offset=0, scale=1.0, softmax="exact")
    assert not gpu.supports("attention", offset=0, scale=1.0, softmax="q16")


def layer(runtime: Runtime, device: str, x: Any, weights: dict[str, Any]) -> Any:
    """Run the operators of a decoder layer with 2 query heads, 1 key head of 8 elements."""

    def run(op: str, *inputs: Any, **attributes: Any) -> Any:
        return runtime.run(op, inputs, device=device, **attributes)

    t = x.shape[0]
    positions = runtime.place(np.arange(t, dtype=np.int32), device)
    cache = runtime.zeros((9, 1, 8), device=device)
    normed = run("rms_norm", x, weights["norm"], eps=1e-5)
    q = run("linear", normed, weights["q"]).reshape(t, 2, 8)
    k = run("linear", normed, weights["k"]).reshape(t, 1, 8)
    q = run("rope", q, positions, theta=1e4)
    k = run("rope", k, positions, theta=1e4)
    keys = run("kv_append", cache, k, offset=0)
    attended = run("attention", q, keys, keys, offset=0, scale=0.3)
    x = run("add", x, run("linear", attended, weights["o"]))
    up = run("linear", x, weights["up"])
    return run("linear", run("silu_mul", up, up), weights["down"])


def test_a_layer_stays_on_the_device(runtime: Runtime) -> None:
    sizes = {"q": (24, 16), "k": (24, 8), "o": (16, 24), "up": (24, 50), "down": (50, 24)}
    weights: dict[str, Any] = {
        name: quantize_columns(normal(seed, *shape))
        for seed, (name, shape) in enumerate(sizes.items())
    }
    weights["norm"] = CiuicTensor.from_numpy(normal(9, 24))
    hidden = normal(8, 5, 24)
    want = layer(runtime, "cpu", runtime.place(hidden), weights).numpy()
    device = runtime.device("opencl")
    layer(runtime, "opencl", runtime.place(hidden, device), weights)  # brings the weights
    runtime.synchronize()
    records: list[TaskRecord] = []
    device.observers.append(records.append)
    got = layer(runtime, "opencl", runtime.place(hidden, device), weights).numpy()
    runtime.synchronize()
    device.observers.remove(records.append)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    moved = [record.nbytes for record in records if record.nbytes]
    assert moved == [hidden.nbytes, 4 * 5, got.nbytes]  # input, positions, result
    assert not any(row.on_host for row in runtime.usage())


class OverRows(CustomOperator):
    def forward(self, x: CiuicTensor) -> CiuicTensor:
        return x - x.max(axis=0, keepdims=True)


def test_what_cannot_be_fused_runs_on_the_host_and_is_counted(runtime: Runtime) -> None:
    register_operator("OverRowsOfOpencl", OverRows)
    x = normal(1, 3, 4)
    result = runtime.run("OverRowsOfOpencl", [x], device="opencl").numpy()
    np.testing.assert_array_equal(result, x - x.max(axis=0, keepdims=True))
    assert {"OverRows": 1} in [row.on_host for row in runtime.usage()]
