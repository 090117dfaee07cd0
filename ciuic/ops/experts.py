"""Operators of a mixture of experts: route_tokens and add_rows.

route_tokens(x (t, d), weight (d, experts), bias (experts,)) -> (t, experts): each token's share of
each expert, zero where it is not routed. The ``n_group`` groups of experts are ranked, and only the
best ``topk_group`` take part. ``scoring`` says how affinities are made, and what ranks a group:

- "sigmoid": a sigmoid each, and the sum of the group's two best. Source: DeepSeek-AI,
  "DeepSeek-V3", section 2.1.2.
- "softmax": over all experts, and the group's best. Source: DeepSeek-AI, "DeepSeek-V2",
  sections 2.2.1 and 2.2.2.

The bias takes part in the choice alone; without one it is zero.

add_rows(x (t, d), rows (n, d), ids int32 (n,), shares (n,)) -> x with ``shares[i] * rows[i]``
added to its row ``ids[i]``; ids are distinct.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError
from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elements, require

GROUP_BEST = {"sigmoid": 2, "softmax": 1}  # experts that speak for their group
SMALLEST_SUM = 1e-20  # added to the sum of shares, as in DeepSeek's own code


def _route_shape(
    x: Spec,
    weight: Spec,
    bias: Spec,
    *,
    top_k: int,
    n_group: int = 1,
    topk_group: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
    scoring: str = "sigmoid",
) -> Shape:
    fits = (
        len(x.shape) == 2
        and weight.shape == (x.shape[1], *bias.shape)
        and len(bias.shape) == 1
        and x.dtype == weight.dtype == bias.dtype == np.float32
    )
    wanted = "float32 (t, d), (d, experts) and (experts,)"
    require(fits, "route_tokens", wanted, (x, weight, bias))
    experts = bias.shape[0]
    if scoring not in GROUP_BEST:
        raise ShapeError(f"scoring must be 'sigmoid' or 'softmax', not {scoring!r}")
    if not (1 <= topk_group <= n_group and experts % n_group == 0):
        raise ShapeError(
            f"n_group must divide {experts} experts and be at least topk_group "
            f"({topk_group}), not {n_group}"
        )
    if not 1 <= top_k <= experts // n_group * topk_group:
        raise ShapeError(
            f"top_k must be from 1 to the {experts // n_group * topk_group} experts of "
            f"{topk_group} groups, not {top_k}"
        )
    return (x.shape[0], experts)


def _route_cost(
    x: Spec,
    weight: Spec,
    bias: Spec,
    *,
    top_k: int,
    n_group: int = 1,
    topk_group: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
    scoring: str = "sigmoid",
) -> Cost:
    t, d, experts = *x.shape, bias.shape[0]
    return Cost(t * experts * (2 * d + 8), 4 * (t * d + d * experts + t * experts))


def _best(values: npt.NDArray[np.float64], count: int) -> npt.NDArray[np.intp]:
    """Return where the largest of each row are (rows, count); ties go to the smaller index."""
    return np.argsort(-values, axis=1, kind="stable")[:, :count]


def _route(
    x: Float32Array,
    weight: Float32Array,
    bias: Float32Array,
    *,
    top_k: int,
    n_group: int = 1,
    topk_group: int = 1,
    normalize: bool = True,
    scale: float = 1.0,
    scoring: str = "sigmoid",
) -> Float32Array:
    t, experts = x.shape[0], bias.shape[0]
    scores = x.astype(np.float64) @ weight  # (t, experts)
    if scoring == "sigmoid":
        affinity = 1.0 / (1.0 + np.exp(-scores))
    else:
        affinity = np.exp(scores - scores.max(axis=1, keepdims=True))
        affinity /= affinity.sum(axis=1, keepdims=True)
    choice = affinity + bias
    if topk_group < n_group:
        grouped = choice.reshape(t, n_group, experts // n_group)
        group_score = np.sort(grouped, axis=2)[:, :, -GROUP_BEST[scoring] :].sum(
            axis=2
        )  # (t, n_group)
        closed = np.ones((t, n_group), bool)
        np.put_along_axis(closed, _best(group_score, topk_group), False, axis=1)
        choice = np.where(np.repeat(closed, experts // n_group, axis=1), -np.inf, choice)
    chosen = _best(choice, top_k)  # (t, top_k)
    shares = np.take_along_axis(affinity, chosen, axis=1)
    if normalize:
        shares /= shares.sum(axis=1, keepdims=True) + SMALLEST_SUM
    result = np.zeros((t, experts), np.float32)
    np.put_along_axis(result, chosen, (shares * scale).astype(np.float32), axis=1)
    return result


def _add_rows_shape(x: Spec, rows: Spec, ids: Spec, shares: Spec) -> Shape:
    fits = (
        len(x.shape) == len(rows.shape) == 2
        and rows.shape[1] == x.shape[1]
        and ids.shape == shares.shape == rows.shape[:1]
        and ids.dtype == np.int32
        and x.dtype == rows.dtype == shares.dtype == np.float32
    )
    wanted = "float32 (t, d), (n, d), int32 (n,) and float32 (n,)"
    require(fits, "add_rows", wanted, (x, rows, ids, shares))
    return x.shape


def _add_rows_cost(x: Spec, rows: Spec, ids: Spec, shares: Spec) -> Cost:
    count = elements(rows.shape)
    return Cost(2 * count, 4 * (2 * elements(x.shape) + count))


def _add_rows(
    x: Float32Array,
    rows: Float32Array,
    ids: npt.NDArray[np.int32],
    shares: Float32Array,
    *,
    out: Float32Array | None = None,
) -> Float32Array:
    if ids.size and (ids.min() < 0 or ids.max() >= x.shape[0] or len(set(ids.tolist())) < ids.size):
        raise ShapeError(f"ids must be distinct and from 0 to {x.shape[0] - 1}, not {ids.tolist()}")
    result = np.empty_like(x) if out is None else out
    result[...] = x
    result[ids] += shares[:, None] * rows
    return result


ROUTE_TOKENS = Operator("route_tokens", _route_shape, _route_cost, _route)
ADD_ROWS = Operator("add_rows", _add_rows_shape, _add_rows_cost, _add_rows, takes_out=True)
