"""Values between: what the kernels of an OpenCL task hand to one another, in the arena.

The sizes are known when a task is submitted, so that plans count them too. Kernels take them in the
order that is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ciuic.ops.latent_attention import is_absorbed

from .array import Shape
from .opencl_tuning import Tuning

FLOAT_NBYTES = 4


def sizes_between(
    op: str, inputs: Sequence[Shape], attributes: Mapping[str, Any], tuning: Tuning
) -> Sequence[int]:
    """Return the bytes of each value between of a task; most have none."""
    rule = RULES.get(op)
    return () if rule is None else rule(inputs, attributes, tuning)


def _linear(inputs: Sequence[Shape], _attributes: Mapping[str, Any], tuning: Tuning) -> list[int]:
    (t, k), (_, n) = inputs[:2]
    sizes = [FLOAT_NBYTES * t * k, FLOAT_NBYTES * t]  # integers of rows, and their scales
    if len(inputs) > 2 and n % tuning.block:
        sizes.append(FLOAT_NBYTES * tuning.up_to_blocks(n))  # the bias, padded
    return sizes


def _attention(inputs: Sequence[Shape], attributes: Mapping[str, Any], tuning: Tuning) -> list[int]:
    t, heads, _ = inputs[0]
    return _scores_and_weights(t, heads, attributes["offset"] + t, tuning)


def _scores_and_weights(t: int, heads: int, visible: int, tuning: Tuning) -> list[int]:
    return [size * t * heads * visible for size in (FLOAT_NBYTES, tuning.real_dtype.itemsize)]


def _latent_attention(
    inputs: Sequence[Shape], attributes: Mapping[str, Any], tuning: Tuning
) -> list[int]:
    (t, heads, nope), (_, rank), (_, up) = inputs[0], inputs[2], inputs[5]
    visible, v = attributes["offset"] + t, up // heads
    between = _scores_and_weights(t, heads, visible, tuning)
    if is_absorbed(t, heads, visible, rank, nope, v, attributes.get("absorbed")):
        # Queries and the mixture, as wide as latents.
        return [FLOAT_NBYTES * t * heads * rank, *between, FLOAT_NBYTES * t * heads * rank]
    # Keys and values of every head.
    return [FLOAT_NBYTES * visible * heads * width for width in (nope, v)] + between


def _route_tokens(
    inputs: Sequence[Shape], attributes: Mapping[str, Any], tuning: Tuning
) -> list[int]:
    (t, _), (experts,), real = inputs[0], inputs[2], tuning.real_dtype.itemsize
    # Affinities and what is chosen by, and scores of groups.
    return [real * t * experts] * 2 + [real * t * attributes.get("n_group", 1)]


RULES: dict[str, Callable[[Sequence[Shape], Mapping[str, Any], Tuning], list[int]]] = {
    "linear": _linear,
    "linear_int4": _linear,
    "attention": _attention,
    "latent_attention": _latent_attention,
    "route_tokens": _route_tokens,
}
