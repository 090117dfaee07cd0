"""Attention in INT8: a token's result is the same whichever tokens go through with it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from ciuic.devices import Device, DeviceManager
from ciuic.ops import OPERATORS
from ciuic.ops.attention_int8 import attend_int8, head_scales, rotated, seen_scales
from ciuic.quantize import LEVELS
from ciuic.runtime import Runtime

FPGA = "fpga:emulated?config=tiny&verify=1"  # which compares with the golden model too
BLOCK = 8  # tiny's columns
LENGTH = 40
Array = np.ndarray
Attend = Callable[[list[Array], int], Array]
"""Takes the inputs of some tokens, the cache's rows up to them, and their offset."""


def chunks(rng: random.Random, length: int) -> Iterator[tuple[int, int]]:
    start = 0
    while start < length:
        stop = min(length, start + rng.choice([1, 1, 2, 3, 7, 16, length]))
        yield start, stop
        start = stop


def growing(rng: np.random.Generator, *shape: int) -> Array:
    """Return random rows that grow, so that scales change again and again."""
    rows = rng.standard_normal(shape).astype(np.float32)
    sizes = np.geomspace(1, rng.choice([1, 4, 1000]), len(rows), dtype=np.float32)
    return rows * sizes.reshape(-1, *[1] * (len(shape) - 1))


def grouped(rng: np.random.Generator) -> tuple[str, list[Array], list[Array], list[Array]]:
    kv_heads = int(rng.integers(1, 4))
    heads, head_dim = kv_heads * int(rng.integers(1, 4)), int(rng.choice([4, 6, 16]))
    q = growing(rng, LENGTH, heads, head_dim)
    cached = [growing(rng, LENGTH, kv_heads, head_dim) for _ in range(2)]
    return "attention", [q], cached, []


def latent(rng: np.random.Generator) -> tuple[str, list[Array], list[Array], list[Array]]:
    heads, nope, rope, rank, v = int(rng.integers(1, 4)), 8, 4, 16, 6
    queries = [growing(rng, LENGTH, heads, nope), growing(rng, LENGTH, heads, rope)]
    cached = [growing(rng, LENGTH, rank), growing(rng, LENGTH, rope)]
    up = [rng.standard_normal((rank, heads * width)).astype(np.float32) for width in (nope, v)]
    return "latent_attention", queries, cached, up


CASES = [grouped, latent]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(6))
def test_any_chunks_give_the_same_bits(case: Callable[..., object], seed: int) -> None:
    op, queries, cached, weights = case(np.random.default_rng(seed))  # type: ignore[misc]
    kernel = OPERATORS[op].kernel
    how = {"scale": 0.3, "softmax": f"int8x{BLOCK}"}
    whole = kernel(*queries, *cached, *weights, offset=0, **how)
    rng = random.Random(seed)
    for start, stop in chunks(rng, LENGTH):
        part = [one[start:stop] for one in queries]
        filled = []
        for one in cached:  # what lies behind may be anything
            filled.append(one.copy())
            filled[-1][stop:] = 1e6
        got = kernel(*part, *filled, *weights, offset=start, **how)
        np.testing.assert_array_equal(got, whole[start:stop], err_msg=f"seed {seed}")


@pytest.fixture
def device() -> Iterator[Device]:
    with DeviceManager() as manager:
        yield manager.open(FPGA)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_any_chunks_give_the_same_bits_on_the_overlay(
    case: Callable[..., object], seed: int, device: Device
) -> None:
    """Its caches grow, are cut off and written anew; the golden model computes the same."""
    op, queries, cached, weights = case(np.random.default_rng(seed))  # type: ignore[misc]
    runtime = Runtime(DeviceManager())
    whole = OPERATORS[op].kernel(
        *queries, *cached, *weights, offset=0, scale=0.3, softmax=f"int8x{BLOCK}"
    )
    held = [device.zeros(one.shape) for one in cached]
    rng = random.Random(seed)
    for _ in range(2):
        for start, stop in chunks(rng, LENGTH):
            for array, one in zip(held, cached, strict=True):
                runtime.run("kv_append", [array, one[start:stop]], device=device, offset=start)
            parts = [one[start:stop] for one in queries]
            inputs = [*parts, *held, *weights]
            got = runtime.run(op, inputs, device=device, offset=start, scale=0.3).numpy()
            np.testing.assert_array_equal(got, whole[start:stop], err_msg=f"seed {seed}")


def test_scales_are_those_of_what_a_token_sees() -> None:
    rng = np.random.default_rng(0)
    rows = growing(rng, 30, 2, 4)
    scales = seen_scales(rows, 10)
    for i in range(20):
        largest = np.abs(rows[: 11 + i]).max(axis=(0, 2))
        np.testing.assert_array_equal(scales[i], head_scales(largest))
        assert (scales[i] * LEVELS >= largest).all()  # nothing saturates that is seen
    later = seen_scales(rows[15:], 0, np.abs(rows[:15]).max(axis=(0, 2)))
    np.testing.assert_array_equal(later, scales[5:])
    assert (seen_scales(np.zeros((3, 1, 4), np.float32), 0) == 1).all()


def test_a_large_key_later_costs_the_tokens_before_nothing() -> None:
    """With scales over all that a call has, they would be lost in rounding."""
    rng = np.random.default_rng(1)
    q, keys, values = (rng.standard_normal((20, 1, 16)).astype(np.float32) for _ in range(3))
    keys[-1] *= 1e4
    values[-1] *= 1e4
    got = attend_int8(q, keys, values, offset=0, scale=0.25, block=BLOCK)[:-1]
    exact = OPERATORS["attention"].kernel(q, keys, values, offset=0, scale=0.25)[:-1]
    assert np.abs(got - exact).max() < 2**-4 * np.abs(rotated(values[:-1])).max()
