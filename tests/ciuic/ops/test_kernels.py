"""The numpy kernels against what their operators mean, written down independently."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic import reference
from ciuic.ops import OPERATORS
from ciuic.ops.linear import FloatWeight
from ciuic.ops.linear_int4 import ScaledWeight
from ciuic.quantize import QuantizedMatrix, quantize_columns, quantize_rows
from ciuic.quantize_int4 import GroupQuantizedMatrix, quantize_groups

HALF_UNIT = 2.0**-24  # relative error of one rounding to float32


def draw(seed: int, *shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def run(op: str, *inputs: Any, **attributes: Any) -> npt.NDArray[Any]:
    operator = OPERATORS[op]
    result = operator.kernel(*inputs, **attributes)
    assert result.shape == operator.shape(*inputs, **attributes)
    assert result.dtype == np.float32
    return result


def assert_rounded_once(got: npt.NDArray[Any], exact: npt.NDArray[np.float64]) -> None:
    """Assert that ``got`` is ``exact`` rounded to float32, but for errors of float64 itself."""
    bound = HALF_UNIT * np.abs(exact) + 1e-13 * np.abs(exact).max()
    assert (np.abs(got - exact) <= bound).all()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("t", "k", "n"), [(1, 1, 1), (3, 100, 7), (2, 1024, 5), (5, 2500, 9)])
def test_linear_is_the_golden_gemm_rescaled(seed: int, t: int, k: int, n: int) -> None:
    x, weight = draw(seed, t, k), quantize_columns(draw(seed + 100, k, n))
    bias = draw(seed + 200, n)
    values, scales = quantize_rows(x)
    products = reference.gemm(values, weight.values).astype(np.float32)
    want = products * (scales[:, None] * weight.scales)
    floats = FloatWeight.of(weight)
    kernel = OPERATORS["linear"].kernel
    np.testing.assert_array_equal(kernel(x, floats), want, err_msg=f"seed {seed}")
    np.testing.assert_array_equal(kernel(x, floats, bias), want + bias, err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(4))
def test_linear_is_exact_where_float32_sums_would_not_be(seed: int) -> None:
    k, n = 60_001, 6
    rng = np.random.default_rng(seed)
    values = rng.integers(64, 128, (k, n), dtype=np.int8)
    x = rng.integers(64, 128, (1, k)).astype(np.float32)
    x[0, 0] = 127  # so that the row's scale is one
    weight = QuantizedMatrix(values, np.ones(n, np.float32))
    want = (x.astype(np.int64) @ values.astype(np.int64)).astype(np.float32)
    got = OPERATORS["linear"].kernel(x, FloatWeight.of(weight))
    np.testing.assert_array_equal(got, want, err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("t", "k", "n"), [(1, 1, 1), (3, 100, 7), (2, 1024, 5), (5, 2500, 9)])
def test_linear_int4_is_the_golden_gemm_rescaled(seed: int, t: int, k: int, n: int) -> None:
    x, weight = draw(seed, t, k), quantize_groups(draw(seed + 100, k, n))
    bias = draw(seed + 200, n)
    values, scales = quantize_rows(x)
    products = reference.gemm_w4(values, weight.values, weight.scales).astype(np.float32)
    want = products * (scales[:, None] * weight.units)
    kernel, floats = OPERATORS["linear_int4"].kernel, ScaledWeight.of(weight)
    np.testing.assert_array_equal(kernel(x, floats), want, err_msg=f"seed {seed}")
    np.testing.assert_array_equal(kernel(x, floats, bias), want + bias, err_msg=f"seed {seed}")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("t", "k", "n"), [(1, 1, 1), (3, 100, 7), (2, 1024, 5)])
def test_linear_int4_adds_what_offsets_add(seed: int, t: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    groups = -(-k // 32)
    x, scales, offsets = draw(seed, t, k), draw(seed + 1, groups, n), 8 * draw(seed + 2, groups, n)
    integers = rng.integers(-8, 8, (k, n), dtype=np.int8)
    weight = GroupQuantizedMatrix.encode(integers, scales, offsets)
    values, row_scales = quantize_rows(x)
    of_rows = [np.repeat(part, 32, axis=0)[:k].astype(float) for part in (scales, offsets)]
    exact = values.astype(float) @ (integers * of_rows[0] + of_rows[1]) * row_scales[:, None]
    got = OPERATORS["linear_int4"].kernel(x, ScaledWeight.of(weight))
    # Errors of the encoded scales, and a unit of the integers for each of two roundings.
    bound = 2.0**-12 * np.abs(values).sum(axis=1).max() * np.abs(scales).max() * row_scales.max()
    np.testing.assert_allclose(got, exact, rtol=1e-6, atol=bound, err_msg=f"seed {seed}")


def test_linear_int4_does_not_overflow() -> None:
    k = 16384
    weight = GroupQuantizedMatrix(
        np.full((k, 1), -8, np.int8), np.full((512, 1), 2**15 - 1, np.int16), np.ones(1, np.float32)
    )
    x = np.full((1, k), -127, np.float32)
    values, _ = quantize_rows(x)
    want = reference.gemm_w4(values, weight.values, weight.scales)
    got = OPERATORS["linear_int4"].kernel(x, ScaledWeight.of(weight))
    np.testing.assert_array_equal(got, want.astype(np.float32))
    assert want.max() < 2**31 - 1


def test_linear_float32_is_a_product() -> None:
    x, weight, bias = draw(0, 4, 30), draw(1, 30, 6), draw(2, 6)
    exact = x.astype(float) @ weight.astype(float)
    np.testing.assert_allclose(run("linear_float32", x, weight), exact, rtol=1e-5, atol=1e-5)
    got = run("linear_float32", x, weight, bias)
    np.testing.assert_allclose(got, exact + bias, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("block", [1, 2, 16, 64])
def test_hadamard_is_a_product_with_its_matrix(block: int) -> None:
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    x = draw(block, 3, 192)
    want = (x.reshape(3, -1, block).astype(float) @ matrix).reshape(3, 192)
    np.testing.assert_allclose(run("hadamard", x, block=block), want, rtol=1e-5, atol=1e-5)


def test_rms_norm() -> None:
    x, weight = draw(3, 5, 70, scale=20), draw(4, 70)
    square = (x.astype(float) ** 2).mean(axis=1, keepdims=True)
    want = x / np.sqrt(square + float(np.float32(1e-5))) * weight
    assert_rounded_once(run("rms_norm", x, weight, eps=1e-5), want)


@pytest.mark.parametrize("interleaved", [False, True])
def test_rope_turns_pairs(interleaved: bool) -> None:
    t, heads, head_dim, theta = 6, 3, 8, 1e4
    x, positions = draw(5, t, heads, head_dim), np.arange(40, 40 + t, dtype=np.int32)
    pairs = (
        x[..., 0::2] + 1j * x[..., 1::2]
        if interleaved
        else x[..., : head_dim // 2] + 1j * x[..., head_dim // 2 :]
    )
    frequency = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turned = pairs * np.exp(1j * positions[:, None, None] * frequency)
    got = run("rope", x, positions, theta=theta, interleaved=interleaved)
    first, second = (
        (got[..., 0::2], got[..., 1::2])
        if interleaved
        else (got[..., : head_dim // 2], got[..., head_dim // 2 :])
    )
    np.testing.assert_allclose(first, turned.real, atol=1e-5)
    np.testing.assert_allclose(second, turned.imag, atol=1e-5)


def attention_by_loops(
    q: npt.NDArray[Any], keys: npt.NDArray[Any], values: npt.NDArray[Any], offset: int, scale: float
) -> npt.NDArray[np.float64]:
    """Return attention one query and one head at a time, scores rounded to float32."""
    t, heads, head_dim = q.shape
    group = heads // keys.shape[1]
    result = np.zeros((t, heads, head_dim))
    for i in range(t):
        seen = slice(0, offset + i + 1)
        for head in range(heads):
            k = keys[seen, head // group].astype(float)
            scores = (k @ q[i, head].astype(float) * float(np.float32(scale))).astype(np.float32)
            weights = np.exp(scores.astype(float) - scores.max())
            result[i, head] = weights / weights.sum() @ values[seen, head // group].astype(float)
    return result.reshape(t, heads * head_dim)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("t", "offset", "unused"), [(1, 0, 0), (1, 9, 4), (6, 0, 2), (5, 7, 3)])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 2), (4, 4)])
def test_attention_sees_what_came_before(
    seed: int, t: int, offset: int, unused: int, heads: int, kv_heads: int
) -> None:
    q = draw(seed, t, heads, 8)
    keys, values = (draw(seed + n, offset + t + unused, kv_heads, 8) for n in (10, 20))
    keys[offset + t :] = np.nan  # slots that are not in use yet
    values[offset + t :] = np.nan
    got = run("attention", q, keys, values, offset=offset, scale=0.3)
    assert_rounded_once(got, attention_by_loops(q, keys, values, offset, 0.3))
    coarse = run("attention", q, keys, values, offset=offset, scale=0.3, softmax="q16")
    np.testing.assert_allclose(coarse, got, atol=2e-3)
    assert (coarse != got).any() or offset + t == 1


def test_softmax() -> None:
    x = draw(6, 4, 50, scale=9)
    scaled = (x * np.float32(0.7)).astype(float)
    want = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    assert_rounded_once(run("softmax", x, scale=0.7), want / want.sum(axis=1, keepdims=True))


def test_silu_mul_does_not_overflow() -> None:
    gate = np.array([[-1e4, -90, -1, 0, 1, 90, 1e4]], np.float32)
    up = np.full_like(gate, 2)
    exact = gate.astype(float)
    want = exact * np.where(exact > 0, 1, np.exp(np.minimum(exact, 0)))
    want /= 1 + np.exp(-np.abs(exact))
    assert_rounded_once(run("silu_mul", gate, up), 2 * want)


def test_moving_rows() -> None:
    table = draw(7, 10, 4)
    ids = np.array([3, 9, 0, 3], np.int32)
    np.testing.assert_array_equal(run("embedding", ids, table), table[[3, 9, 0, 3]])
    cache = np.zeros((6, 2, 4), np.float32)
    rows = draw(8, 3, 2, 4)
    assert run("kv_append", cache, rows, offset=2) is cache
    np.testing.assert_array_equal(cache[2:5], rows)
    assert not cache[[0, 1, 5]].any()
    np.testing.assert_array_equal(run("slice_rows", rows, start=1, stop=3), rows[1:])
    np.testing.assert_array_equal(run("add", rows, rows), 2 * rows)


@pytest.mark.parametrize("op", sorted(name for name, one in OPERATORS.items() if one.takes_out))
def test_kernels_write_where_they_are_told(op: str) -> None:
    rng = np.random.default_rng(sum(map(ord, op)))
    x, y = rng.standard_normal((2, 5, 7)).astype(np.float32)
    ids = np.array([4, 0, 2], np.int32)
    shares = np.array([0.5, 2.0, 1.0], np.float32)
    inputs = {"embedding": (ids, x), "add_rows": (x, y[:3], ids, shares)}.get(op, (x, y))
    want = OPERATORS[op].kernel(*inputs)
    out = np.full(OPERATORS[op].shape(*inputs), np.nan, np.float32)
    assert OPERATORS[op].kernel(*inputs, out=out) is out
    np.testing.assert_array_equal(out, want)
