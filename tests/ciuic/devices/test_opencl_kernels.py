"""Kernels of the OpenCL device: linear to the bit, the others within rounding of numpy's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic import reference
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.opencl import OpenclDevice
from ciuic.errors import ShapeError
from ciuic.ops import OPERATORS
from ciuic.quantize import quantize_columns, quantize_rows
from ciuic.quantize_int4 import quantize_groups

pytestmark = pytest.mark.opencl

Array = npt.NDArray[Any]
LARGEST_CODE = 127


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def run(device: OpenclDevice | CpuDevice, op: str, *inputs: Any, **attributes: Any) -> Array:
    placed = [device.upload(value) for value in inputs]
    return device.submit(op, placed, **attributes).wait().numpy()


def check(device: OpenclDevice, op: str, *inputs: Array, note: str = "", **attributes: Any) -> None:
    """Compare with the numpy kernel; sums in double round as numpy's do, but for a digit."""
    got = run(device, op, *inputs, **attributes)
    want = OPERATORS[op].kernel(*inputs, **attributes)
    tolerance = 1e-6 if device.tuning.real == "double" else 3e-5
    np.testing.assert_allclose(got, want, tolerance, tolerance, err_msg=f"{op} {note}")


SIZES = [(1, 1, 1), (1, 576, 96), (1, 1025, 63), (3, 17, 65), (9, 2049, 15), (64, 130, 7)]


@pytest.mark.parametrize(("t", "k", "n"), SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_linear_has_the_bits_of_the_cpu(
    tuned: OpenclDevice, cpu: CpuDevice, t: int, k: int, n: int, with_bias: bool
) -> None:
    inputs = [normal(t + k, t, k), quantize_columns(normal(n, k, n))]
    inputs += [normal(3, n)] if with_bias else []
    assert run(tuned, "linear", *inputs).tobytes() == run(cpu, "linear", *inputs).tobytes()


@pytest.mark.parametrize(("t", "k", "n"), SIZES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_int4_linear_has_the_bits_of_the_cpu(
    tuned: OpenclDevice, cpu: CpuDevice, t: int, k: int, n: int, with_bias: bool, with_offsets: bool
) -> None:
    weight = quantize_groups(normal(n, k, n))
    if with_offsets:
        offsets = np.random.default_rng(k).integers(-(2**19), 2**19, weight.scales.shape)
        weight = replace(weight, offsets=offsets.astype(np.int32))
    inputs: list[Any] = [normal(t + k, t, k), weight]
    inputs += [normal(3, n)] if with_bias else []
    got, want = (run(device, "linear_int4", *inputs) for device in (tuned, cpu))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("t", [1, 5])
def test_linear_sums_as_the_reference_does(tuned: OpenclDevice, t: int) -> None:
    x, weight = normal(1, t, 1500), quantize_columns(normal(2, 1500, 40))
    codes, scales = quantize_rows(x)
    sums = reference.gemm(codes, weight.values)
    want = sums.astype(np.float32) * (scales[:, None] * weight.scales)
    assert run(tuned, "linear", x, weight).tobytes() == want.tobytes()


def test_linear_of_zeros_and_of_the_largest_integers(tuned: OpenclDevice) -> None:
    x = np.zeros((2, 5001), np.float32)
    x[1] = -LARGEST_CODE
    got = run(tuned, "linear", x, quantize_columns(np.full((5001, 3), 127, np.float32)))
    want = np.float32([0, -5001 * LARGEST_CODE**2])
    np.testing.assert_array_equal(got, np.repeat(want[:, None], 3, axis=1))


def test_linear_rounds_activations_half_to_even(tuned: OpenclDevice) -> None:
    halves = np.array([[LARGEST_CODE, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5]], np.float32)
    identity = quantize_columns(np.eye(7, dtype=np.float32))
    got = run(tuned, "linear", halves, identity) / np.float32(LARGEST_CODE) / identity.scales
    np.testing.assert_allclose(got, [[LARGEST_CODE, 0, 2, 2, 0, -2, -2]], rtol=1e-6)


@pytest.mark.parametrize("t", [1, 2, 19])
@pytest.mark.parametrize("n", [1, 15, 16, 70])
def test_linear_float32(tuned: OpenclDevice, t: int, n: int) -> None:
    x, weight, bias = normal(1, t, 130), normal(2, 130, n), normal(3, n)
    exact = x.astype(np.float64) @ weight
    np.testing.assert_allclose(run(tuned, "linear_float32", x, weight), exact, 1e-5, 1e-5)
    got = run(tuned, "linear_float32", x, weight, bias)
    np.testing.assert_allclose(got, exact + bias, 1e-5, 1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_rows_and_elements(tuned: OpenclDevice, seed: int) -> None:
    draw = np.random.default_rng(seed)
    t, d = int(draw.integers(1, 70)), int(draw.integers(1, 700))
    x, y = normal(seed, t, d), normal(seed + 100, t, d)
    note = f"seed {seed}, {t} x {d}"
    check(tuned, "rms_norm", x, y[0], eps=1e-5, note=note)
    check(tuned, "silu_mul", 30 * x, y, note=note)
    check(tuned, "add", x, y, note=note)
    check(tuned, "softmax", 20 * x, scale=0.3, note=note)
    check(tuned, "softmax", 1e6 * x, note=note)
    check(tuned, "embedding", draw.integers(0, t, 5).astype(np.int32), x, note=note)
    check(tuned, "slice_rows", x, start=t // 2, stop=t, note=note)


@pytest.mark.parametrize("block", [1, 2, 32, 64])
def test_hadamard_has_the_bits_of_the_cpu(tuned: OpenclDevice, cpu: CpuDevice, block: int) -> None:
    x = normal(block, 5, 192)
    got, want = (run(device, "hadamard", x, block=block) for device in (tuned, cpu))
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope(tuned: OpenclDevice, interleaved: bool) -> None:
    positions = np.array([0, 1, 77, 2047], np.int32)
    x = normal(1, 4, 3, 10)
    check(tuned, "rope", x, positions, theta=1e5, interleaved=interleaved)


@pytest.mark.parametrize(
    ("t", "heads", "kv_heads", "head_dim", "offset"),
    [
        (1, 1, 1, 2, 0),
        (1, 9, 3, 64, 70),
        (7, 2, 1, 20, 3),
        (8, 3, 3, 4, 0),
        (9, 6, 2, 36, 1),
        (33, 4, 2, 16, 100),
    ],
)
def test_attention(
    tuned: OpenclDevice, t: int, heads: int, kv_heads: int, head_dim: int, offset: int
) -> None:
    q = 2 * normal(1, t, heads, head_dim)
    keys, values = (normal(seed, offset + t + 3, kv_heads, head_dim) for seed in (2, 3))
    keys[offset + t :] = values[offset + t :] = np.nan  # rows that no query may see
    check(tuned, "attention", q, keys, values, offset=offset, scale=0.4)


def test_a_score_that_is_no_number_stays_in_its_row(tuned: OpenclDevice) -> None:
    x = normal(1, 3, 50)
    x[1, 20] = np.nan
    got = run(tuned, "softmax", x)
    assert np.isnan(got[1]).all()
    assert np.isfinite(got[[0, 2]]).all()


def test_a_cache_is_written_in_place(gpu: OpenclDevice) -> None:
    cache = gpu.zeros((5, 2, 3))
    rows = normal(1, 2, 2, 3)
    written = gpu.submit("kv_append", [cache, gpu.upload(rows)], offset=3).wait()
    assert written is cache
    assert (cache.numpy()[3:] == rows).all()
    assert (cache.numpy()[:3] == 0).all()


def test_ids_outside_the_table_are_refused(gpu: OpenclDevice) -> None:
    ids, table = gpu.upload(np.array([0, 9], np.int32)), gpu.upload(normal(1, 4, 3))
    with pytest.raises(ShapeError, match=r"^ids must be from 0 to 3, not 0 to 9$"):
        gpu.submit("embedding", [ids, table]).wait()


def test_no_tokens_give_no_rows(gpu: OpenclDevice) -> None:
    assert run(gpu, "add", normal(1, 0, 4), normal(2, 0, 4)).shape == (0, 4)
    assert run(gpu, "linear", normal(1, 0, 4), quantize_columns(normal(2, 4, 3))).shape == (0, 3)


@pytest.mark.parametrize("absorbed", [False, True, None])
@pytest.mark.parametrize(("t", "offset"), [(1, 0), (1, 40), (7, 0), (5, 12)])
@pytest.mark.parametrize(("heads", "rank", "rope_gain"), [(1, 9, 1.0), (6, 24, 0.5)])
def test_latent_attention(
    tuned: OpenclDevice,
    absorbed: bool | None,
    t: int,
    offset: int,
    heads: int,
    rank: int,
    rope_gain: float,
) -> None:
    nope, rope, v, cached = 14, 6, 11, offset + t + 3
    inputs = (
        *(normal(1, t, heads, nope), normal(2, t, heads, rope)),
        *(normal(3, cached, rank), normal(4, cached, rope)),
        *(normal(5, rank, heads * nope), normal(6, rank, heads * v)),
    )
    attributes = {"offset": offset, "scale": 0.1, "rope_gain": rope_gain, "absorbed": absorbed}
    got = run(tuned, "latent_attention", *inputs, **attributes)
    want = OPERATORS["latent_attention"].kernel(*inputs, **attributes)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize("t", [1, 9])
@pytest.mark.parametrize(
    ("experts", "top_k", "n_group", "topk_group"),
    [(1, 1, 1, 1), (8, 2, 1, 1), (8, 2, 4, 2), (64, 6, 8, 3), (6, 2, 6, 2)],
)
@pytest.mark.parametrize("normalize", [False, True])
def test_route_tokens(
    tuned: OpenclDevice,
    scoring: str,
    t: int,
    experts: int,
    top_k: int,
    n_group: int,
    topk_group: int,
    normalize: bool,
) -> None:
    inputs = (normal(1, t, 33), normal(2, 33, experts), 0.1 * normal(3, experts))
    check(
        *(tuned, "route_tokens", *inputs),
        top_k=top_k,
        n_group=n_group,
        topk_group=topk_group,
        normalize=normalize,
        scale=2.5,
        scoring=scoring,
    )


def test_add_rows(tuned: OpenclDevice) -> None:
    ids = np.array([4, 0, 2], np.int32)
    check(tuned, "add_rows", normal(1, 5, 17), normal(2, 3, 17), ids, normal(3, 3))
    with pytest.raises(ShapeError, match="ids must be distinct and from 0 to 4"):
        run(tuned, "add_rows", normal(1, 5, 17), normal(2, 2, 17), ids[:2] * 2, normal(3, 2))
