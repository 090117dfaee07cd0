"""latent_attention in both forms against the textbook's one, and the rules of its inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ciuic.errors import ShapeError, UsageError
from ciuic.ops import OPERATORS

OPERATOR = OPERATORS["latent_attention"]


def inputs(seed: int, t: int, slots: int, sizes: tuple[int, int, int, int, int]) -> list[Any]:
    heads, nope, rope, v, rank = sizes
    rng = np.random.default_rng(seed)
    shapes = [(t, heads, nope), (t, heads, rope), (slots, rank), (slots, rope)]
    shapes += [(rank, heads * nope), (rank, heads * v)]
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def plain(arrays: list[Any], offset: int, scale: float, gain: float) -> np.ndarray:
    """One query and one head at a time, in float64."""
    q_nope, q_rope, latents, rope_keys, up_keys, up_values = (a.astype(float) for a in arrays)
    t, heads, nope = q_nope.shape
    v = up_values.shape[1] // heads
    result = np.zeros((t, heads * v))
    for head in range(heads):
        keys = latents @ up_keys[:, head * nope : (head + 1) * nope]
        values = latents @ up_values[:, head * v : (head + 1) * v]
        for i in range(t):
            seen = slice(0, offset + i + 1)
            scores = keys[seen] @ q_nope[i, head] + gain * (rope_keys[seen] @ q_rope[i, head])
            shares = np.exp(scale * (scores - scores.max()))
            result[i, head * v : (head + 1) * v] = shares / shares.sum() @ values[seen]
    return result


@pytest.mark.parametrize("absorbed", [False, True, None])
@pytest.mark.parametrize(
    ("t", "offset", "unused", "sizes"),
    [
        (1, 0, 0, (1, 1, 2, 1, 1)),
        (5, 0, 3, (4, 16, 8, 16, 32)),
        (1, 40, 7, (4, 16, 8, 16, 32)),
        (3, 9, 0, (2, 5, 4, 7, 6)),
    ],
)
def test_both_forms_equal_the_definition(
    t: int, offset: int, unused: int, sizes: tuple[int, int, int, int, int], absorbed: bool | None
) -> None:
    seed = t + offset
    arrays = inputs(seed, t, offset + t + unused, sizes)
    arrays[2][offset + t :] = np.nan  # slots beyond the queries may hold anything
    arrays[3][offset + t :] = np.nan
    got = OPERATOR.kernel(*arrays, offset=offset, scale=0.3, rope_gain=1.7, absorbed=absorbed)
    seen = [*arrays[:2], arrays[2][: offset + t], arrays[3][: offset + t], *arrays[4:]]
    want = plain(seen, offset, 0.3, 1.7)
    assert got.dtype == np.float32
    assert got.shape == OPERATOR.shape(*arrays, offset=offset, scale=0.3) == want.shape
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max(), f"seed {seed}"


def test_fixed_point_softmax_is_near_the_exact_one() -> None:
    arrays = inputs(3, 4, 30, (4, 16, 8, 16, 32))
    settings = {"offset": 26, "scale": 0.1}
    exact = OPERATOR.kernel(*arrays, softmax="exact", **settings)
    fixed = OPERATOR.kernel(*arrays, softmax="q16", **settings)
    assert 0 < np.abs(exact - fixed).max() < 2e-3 * np.abs(exact).max()


def test_cost_is_that_of_the_cheaper_form() -> None:
    """Few queries on a long cache are absorbed, a whole prompt is not."""
    sizes = (16, 128, 64, 128, 512)
    decode, prefill = inputs(0, 1, 200, sizes), inputs(0, 200, 200, sizes)

    def flops(arrays: list[Any], absorbed: bool | None) -> int:
        t = arrays[0].shape[0]
        cost = OPERATOR.cost(*arrays, offset=200 - t, scale=1.0, absorbed=absorbed)
        return int(cost.flops)

    assert flops(decode, None) == flops(decode, True) < flops(decode, False) / 20
    assert flops(prefill, None) == flops(prefill, False) < flops(prefill, True)


@pytest.mark.parametrize(
    ("position", "shape"),
    [(1, (2, 3, 4)), (2, (9, 7)), (3, (8, 4)), (4, (6, 9)), (5, (6, 9)), (0, (2, 10))],
)
def test_shapes_that_do_not_fit_are_refused(position: int, shape: tuple[int, ...]) -> None:
    arrays = inputs(0, 2, 9, (2, 5, 4, 7, 6))
    arrays[position] = np.zeros(shape, np.float32)
    with pytest.raises(ShapeError, match=r"^inputs of latent_attention must be float32 \(t, heads"):
        OPERATOR.shape(*arrays, offset=0, scale=1.0)


def test_slots_must_be_enough_and_the_softmax_known() -> None:
    arrays = inputs(0, 2, 9, (2, 5, 4, 7, 6))
    with pytest.raises(ShapeError, match=r"T >= offset \+ t"):
        OPERATOR.shape(*arrays, offset=8, scale=1.0)
    with pytest.raises(
        UsageError, match=r"^softmax must be 'exact', 'q16', 'int8x<block>' or None, not 'q8'$"
    ):
        OPERATOR.shape(*arrays, offset=0, scale=1.0, softmax="q8")
