"""route_tokens and add_rows against what they mean, one token at a time."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ciuic.errors import ShapeError
from ciuic.ops import OPERATORS

ROUTE, ADD_ROWS = OPERATORS["route_tokens"], OPERATORS["add_rows"]


def shares_of(
    affinity: np.ndarray, bias: np.ndarray, *, top_k: int, n_group: int, topk_group: int, best: int
) -> dict[int, float]:
    """Return expert -> affinity of the experts of one token."""
    size = len(bias) // n_group
    groups = [range(g * size, (g + 1) * size) for g in range(n_group)]
    choice = affinity + bias
    ranked = sorted(groups, key=lambda group: -sum(sorted(choice[list(group)])[-best:]))
    if topk_group == n_group:
        ranked = groups
    candidates = [expert for group in ranked[:topk_group] for expert in group]
    chosen = sorted(candidates, key=lambda expert: -choice[expert])[:top_k]
    return {expert: affinity[expert] for expert in chosen}


@pytest.mark.parametrize("scoring", ["sigmoid", "softmax"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(
    ("experts", "top_k", "n_group", "topk_group"),
    [(1, 1, 1, 1), (8, 2, 4, 2), (8, 2, 8, 3), (24, 6, 3, 2), (16, 16, 1, 1), (64, 8, 8, 4)],
)
def test_route_tokens(
    experts: int, top_k: int, n_group: int, topk_group: int, normalize: bool, scoring: str
) -> None:
    seed = experts + top_k
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((40, 12)).astype(np.float32)
    weight = rng.standard_normal((12, experts)).astype(np.float32)
    bias = rng.standard_normal(experts).astype(np.float32)
    groups = {"top_k": top_k, "n_group": n_group, "topk_group": topk_group}
    how = {"normalize": normalize, "scale": 2.5, "scoring": scoring}
    got = ROUTE.kernel(x, weight, bias, **how, **groups)
    assert got.shape == ROUTE.shape(x, weight, bias, **groups)
    assert got.dtype == np.float32
    scores = x.astype(float) @ weight
    if scoring == "sigmoid":
        affinity, best = 1 / (1 + np.exp(-scores)), 2
    else:
        affinity, best = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 1
    for row, token in zip(got, affinity, strict=True):
        want = shares_of(token, bias, best=best, **groups)
        total = sum(want.values()) if normalize else 1.0
        assert set(np.flatnonzero(row)) == set(want), f"seed {seed}"
        for expert, share in want.items():
            assert row[expert] == pytest.approx(2.5 * share / total, rel=1e-6)


def test_ties_go_to_the_first_experts() -> None:
    x, weight = np.zeros((1, 4), np.float32), np.zeros((4, 8), np.float32)
    got = ROUTE.kernel(x, weight, np.zeros(8, np.float32), top_k=2, n_group=4, topk_group=1)
    assert got.tolist() == [[0.5, 0.5, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("groups", "reason"),
    [
        ({"top_k": 2, "n_group": 3}, "n_group must divide 8 experts"),
        ({"top_k": 2, "n_group": 2, "topk_group": 4}, "be at least topk_group (4), not 2"),
        ({"top_k": 5, "n_group": 4, "topk_group": 2}, "from 1 to the 4 experts of 2 groups, not 5"),
        ({"top_k": 0}, "top_k must be from 1 to the 8 experts of 1 groups, not 0"),
    ],
)
def test_groups_that_do_not_fit_are_refused(groups: dict[str, int], reason: str) -> None:
    x, weight, bias = (np.zeros(shape, np.float32) for shape in ((3, 4), (4, 8), (8,)))
    with pytest.raises(ShapeError, match=re.escape(reason)):
        ROUTE.shape(x, weight, bias, **groups)


def test_softmax_of_large_scores_is_finite() -> None:
    x, weight = np.full((1, 4), 1e4, np.float32), np.eye(4, dtype=np.float32)
    weight[0, 0] = 2
    got = ROUTE.kernel(x, weight, np.zeros(4, np.float32), top_k=1, scoring="softmax")
    assert got.tolist() == [[1, 0, 0, 0]]


def test_unknown_scoring_is_refused() -> None:
    x, weight, bias = (np.zeros(shape, np.float32) for shape in ((3, 4), (4, 8), (8,)))
    with pytest.raises(ShapeError, match=r"^scoring must be 'sigmoid' or 'softmax', not 'tanh'$"):
        ROUTE.shape(x, weight, bias, top_k=2, scoring="tanh")


def test_route_tokens_refuses_other_shapes() -> None:
    x, weight, bias = (np.zeros(shape, np.float32) for shape in ((3, 4), (4, 8), (7,)))
    with pytest.raises(ShapeError, match=r"^inputs of route_tokens must be float32 \(t, d\)"):
        ROUTE.shape(x, weight, bias, top_k=2)


def test_add_rows_leaves_its_input_alone() -> None:
    x = np.ones((4, 2), np.float32)
    rows = np.array([[1, 2], [3, 4]], np.float32)
    ids, shares = np.array([3, 0], np.int32), np.array([2, 10], np.float32)
    got = ADD_ROWS.kernel(x, rows, ids, shares)
    assert ADD_ROWS.shape(x, rows, ids, shares) == got.shape
    assert got.tolist() == [[31, 41], [1, 1], [1, 1], [3, 5]]
    assert (x == 1).all()


@pytest.mark.parametrize("ids", [[0, 0], [0, 4], [-1, 0]])
def test_add_rows_refuses_other_ids(ids: list[int]) -> None:
    arrays: list[Any] = [np.ones((4, 2), np.float32), np.ones((2, 2), np.float32)]
    with pytest.raises(ShapeError, match=r"^ids must be distinct and from 0 to 3, not"):
        ADD_ROWS.kernel(*arrays, np.array(ids, np.int32), np.ones(2, np.float32))


def test_add_rows_refuses_other_shapes() -> None:
    with pytest.raises(ShapeError, match=r"^inputs of add_rows must be"):
        ADD_ROWS.shape(
            np.ones((4, 2), np.float32),
            np.ones((2, 3), np.float32),
            np.zeros(2, np.int32),
            np.ones(2, np.float32),
        )
