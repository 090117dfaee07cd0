"""The OpenCL device: every kernel against the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ciuic.devices.cpu import CpuDevice
from ciuic.devices.opencl import OpenclDevice, list_devices, open_device
from ciuic.devices.opencl_expression import can_fuse, fused_source
from ciuic.errors import DeviceNotFound, ShapeError
from ciuic.ops import CustomOperator
from ciuic.quantize import quantize_columns
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor, trace

pytestmark = [
    pytest.mark.opencl,
    pytest.mark.skipif(
        not list_devices(), reason="needs an OpenCL runtime: pip install 'ciuic[opencl-cpu]'"
    ),
]


@pytest.fixture(scope="module")
def gpu() -> Iterator[OpenclDevice]:
    with open_device("opencl") as device:
        assert isinstance(device, OpenclDevice)
        yield device


@pytest.fixture(scope="module")
def cpu() -> Iterator[CpuDevice]:
    with CpuDevice() as device:
        yield device


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def normal(seed: int, *shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return rng(seed).standard_normal(shape).astype(np.float32)


def both(gpu: OpenclDevice, cpu: CpuDevice, op: str, *inputs: Any, **attributes: Any) -> Any:
    results = []
    for device in (gpu, cpu):
        placed = [device.upload(value) for value in inputs]
        results.append(device.submit(op, placed, **attributes).wait().numpy())
    return results


@pytest.mark.parametrize(
    ("t", "k", "n"), [(1, 1, 1), (1, 576, 1536), (3, 17, 65), (9, 1537, 63), (64, 130, 7)]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_has_the_bits_of_the_cpu(
    gpu: OpenclDevice, cpu: CpuDevice, t: int, k: int, n: int, with_bias: bool
) -> None:
    inputs = [normal(t + k, t, k), quantize_columns(normal(n, k, n))]
    inputs += [normal(3, n)] if with_bias else []
    got, want = both(gpu, cpu, "linear", *inputs)
    assert got.tobytes() == want.tobytes()


def test_linear_of_zeros_and_of_the_largest_integers(gpu: OpenclDevice, cpu: CpuDevice) -> None:
    x = np.zeros((2, 2000), np.float32)
    x[1] = -5.0
    got, want = both(gpu, cpu, "linear", x, quantize_columns(np.ones((2000, 3), np.float32)))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_float_kernels_agree_with_the_cpu(gpu: OpenclDevice, cpu: CpuDevice, seed: int) -> None:
    draw = rng(seed)
    t, heads, groups, head_dim = (int(draw.integers(1, high)) for high in (20, 5, 3, 9))
    d, keys, offset = int(draw.integers(1, 300)), heads * groups, int(draw.integers(0, 40))
    cases: list[tuple[str, list[Any], dict[str, Any]]] = [
        ("rms_norm", [normal(1, t, d), normal(2, d)], {"eps": 1e-5}),
        ("silu_mul", [30 * normal(3, t, d), normal(4, t, d)], {}),
        ("add", [normal(5, t, d), normal(6, t, d)], {}),
        ("softmax", [20 * normal(7, t, d)], {"scale": 0.3}),
        ("linear_float32", [normal(8, t, d), normal(9, d, 70), normal(10, 70)], {}),
        ("embedding", [draw.integers(0, 50, t).astype(np.int32), normal(11, 50, d)], {}),
        ("slice_rows", [normal(12, t + 2, d)], {"start": 1, "stop": t + 1}),
        (
            "attention",
            [
                normal(13, t, keys, 2 * head_dim),
                normal(14, offset + t + 3, heads, 2 * head_dim),
                normal(15, offset + t + 3, heads, 2 * head_dim),
            ],
            {"offset": offset, "scale": 0.4},
        ),
    ]
    positions = np.arange(offset, offset + t, dtype=np.int32)
    cases += [
        (
            "rope",
            [normal(16, t, heads, 2 * head_dim), positions],
            {"theta": 1e4, "interleaved": interleaved},
        )
        for interleaved in (False, True)
    ]
    for op, inputs, attributes in cases:
        got, want = both(gpu, cpu, op, *inputs, **attributes)
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5, err_msg=f"{op}, seed {seed}")


def test_a_cache_is_written_in_place(gpu: OpenclDevice) -> None:
    cache = gpu.zeros((5, 2, 3))
    rows = normal(1, 2, 2, 3)
    gpu.submit("kv_append", [cache, gpu.upload(rows)], offset=3).wait()
    assert (cache.numpy()[3:] == rows).all()
    assert (cache.numpy()[:3] == 0).all()


class Gelu(CustomOperator):
    def forward(self, x: CiuicTensor) -> CiuicTensor:
        return x / (1.0 + (-1.702 * x).exp()) * x.sum(axis=-1, keepdims=True)


class Softmax(CustomOperator):
    def forward(self, x: CiuicTensor) -> CiuicTensor:
        exponential = (x - x.max(axis=-1, keepdims=True)).exp()
        return exponential / exponential.sum(axis=-1, keepdims=True)


class OverRows(CustomOperator):
    def forward(self, x: CiuicTensor) -> CiuicTensor:
        return x - x.max(axis=0, keepdims=True)


@pytest.mark.parametrize("operator", [Gelu(), Softmax()])
def test_a_custom_operator_becomes_one_kernel(
    gpu: OpenclDevice, cpu: CpuDevice, operator: CustomOperator
) -> None:
    x = CiuicTensor.from_numpy(normal(1, 2, 7, 33))
    program, captured = operator.traced([x])
    assert captured == ()
    assert gpu.supports("expression", program=program)
    assert fused_source(program).count("kernel void") == 1
    got, want = both(gpu, cpu, "expression", x.numpy(), program=program)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_fused_runs_on_the_host_and_is_counted() -> None:
    program, _ = trace(OverRows().forward, [CiuicTensor((3, 4))], "OverRows")
    assert not can_fuse(program)
    runtime = Runtime()
    try:
        from ciuic import register_operator

        register_operator("OverRowsOnce", OverRows)
        x = normal(1, 3, 4)
        result = runtime.run("OverRowsOnce", [x], device="opencl").numpy()
        np.testing.assert_array_equal(result, x - x.max(axis=0, keepdims=True))
        hosts = [row.on_host for row in runtime.usage()]
        assert {"OverRows": 1} in hosts
    finally:
        runtime.manager.close()


def test_wrong_names_say_what_is_there() -> None:
    with pytest.raises(DeviceNotFound, match=r"'opencl:99': the number must be below \d+, not 99"):
        open_device("opencl:99")
    with pytest.raises(DeviceNotFound, match="must be 'opencl' or 'opencl:<number>'"):
        open_device("opencl:x")


def test_ids_outside_the_table_are_refused(gpu: OpenclDevice) -> None:
    ids, table = gpu.upload(np.array([0, 9], np.int32)), gpu.upload(normal(1, 4, 3))
    with pytest.raises(ShapeError, match="ids must be from 0 to 3, not 0 to 9"):
        gpu.submit("embedding", [ids, table]).wait()


def test_memory_is_given_back(gpu: OpenclDevice) -> None:
    before = gpu.used_bytes
    array = gpu.upload(normal(1, 100, 100))
    gpu.synchronize()
    assert gpu.used_bytes == before + 40_000
    del array
    assert gpu.used_bytes == before
