"""latent_attention: causal multi-head latent attention (MLA) over a cache of latents.

Source: DeepSeek-AI, "DeepSeek-V2", section 2.1. q_nope (t, heads, nope), q_rope (t, heads, rope),
latents (T, rank) and rope_keys (T, rope) with T >= offset + t, up_keys (rank, heads * nope) and
up_values (rank, heads * v). The result is (t, heads * v). Query i sees slots 0 .. offset + i.
``rope_gain`` multiplies the rotary part of the scores, ``scale`` all of them.

Keys and values are never stored. The plain form expands them from the latents, once a call; the
absorbed form brings each query to the latents instead, and what it mixes back from them. Both
compute the same; ``absorbed=None`` takes the one with fewer operations, which is the absorbed one
for few queries on a long cache. ``softmax`` is as for `ciuic.ops.attention`; the form
"int8x<block>" is absorbed always: all heads share one head of keys, latents and rotary keys side by
side, and of values, the latents.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ciuic.quantize import Float32Array

from .attention import causal_weights, require_softmax
from .attention_int8 import (
    IntegerAttention,
    attend_rows,
    head_scales,
    keys_at_a_time,
    largest_magnitudes,
    quantize_heads,
    reference_attention,
    rotated,
)
from .operator import Cost, Operator, Shape, Spec, elements, require
from .softmax import IntegerSoftmax, reference_softmax

_WANTED = (
    "float32 (t, heads, nope), (t, heads, rope), (T, rank), (T, rope), (rank, heads * nope) and "
    "(rank, heads * v) with T >= offset + t"
)


def _shape(
    q_nope: Spec,
    q_rope: Spec,
    latents: Spec,
    rope_keys: Spec,
    up_keys: Spec,
    up_values: Spec,
    *,
    offset: int,
    scale: float,
    rope_gain: float = 1.0,
    softmax: str | None = None,
    absorbed: bool | None = None,
) -> Shape:
    inputs = (q_nope, q_rope, latents, rope_keys, up_keys, up_values)
    fits = [len(value.shape) for value in inputs] == [3, 3, 2, 2, 2, 2] and (
        all(value.dtype == np.float32 for value in inputs)
        and q_rope.shape[:2] == q_nope.shape[:2]
        and rope_keys.shape == (latents.shape[0], q_rope.shape[2])
        and up_keys.shape == (latents.shape[1], q_nope.shape[1] * q_nope.shape[2])
        and up_values.shape[0] == latents.shape[1]
        and up_values.shape[1] % q_nope.shape[1] == 0
        and 0 <= offset <= latents.shape[0] - q_nope.shape[0]
    )
    require(fits, "latent_attention", _WANTED, inputs)
    require_softmax(softmax)
    return (q_nope.shape[0], up_values.shape[1])


def _forms(t: int, heads: int, visible: int, rank: int, nope: int, v: int) -> tuple[int, int]:
    """Return the products of the plain and of the absorbed form, those with rope left out."""
    plain = visible * rank * heads * (nope + v) + t * visible * heads * (nope + v)
    absorbed = t * rank * heads * (nope + v) + t * visible * heads * 2 * rank
    return plain, absorbed


def is_absorbed(
    t: int, heads: int, visible: int, rank: int, nope: int, v: int, asked: bool | None
) -> bool:
    """Return whether to take the absorbed form: as asked, or where it has fewer products."""
    plain, absorbed = _forms(t, heads, visible, rank, nope, v)
    return absorbed < plain if asked is None else asked


def _cost(
    q_nope: Spec,
    q_rope: Spec,
    latents: Spec,
    rope_keys: Spec,
    up_keys: Spec,
    up_values: Spec,
    *,
    offset: int,
    scale: float,
    rope_gain: float = 1.0,
    softmax: str | None = None,
    absorbed: bool | None = None,
) -> Cost:
    (t, heads, nope), rank, rope = q_nope.shape, latents.shape[1], rope_keys.shape[1]
    visible, v = offset + t, up_values.shape[1] // heads
    forms = _forms(t, heads, visible, rank, nope, v)
    products = min(forms) if absorbed is None else forms[absorbed]
    flops = 2 * products + t * heads * visible * (2 * rope + 8)
    floats = visible * (rank + rope) + elements(up_keys.shape) + elements(up_values.shape)
    return Cost(flops, 4 * (floats + t * heads * (nope + rope + v)))


def attend_latents(
    q_nope: Float32Array,
    q_rope: Float32Array,
    latents: Float32Array,
    rope_keys: Float32Array,
    up_keys: Float32Array,
    up_values: Float32Array,
    *,
    offset: int,
    scale: float,
    rope_gain: float = 1.0,
    softmax: str | None = None,
    absorbed: bool | None = None,
    engine: IntegerSoftmax = reference_softmax,
) -> Float32Array:
    """Return latent attention (t, heads * v); ``engine`` computes the softmax of "q16"."""
    t, heads, nope = q_nope.shape
    rank, visible = latents.shape[1], offset + t
    v = up_values.shape[1] // heads
    absorbed = is_absorbed(t, heads, visible, rank, nope, v, absorbed)
    seen = latents[:visible].astype(np.float64)  # (visible, rank)
    head_up_keys = up_keys.astype(np.float64).reshape(rank, heads, nope).transpose(1, 0, 2)
    head_up_values = up_values.astype(np.float64).reshape(rank, heads, v).transpose(1, 0, 2)
    queries = q_nope.transpose(1, 0, 2).astype(np.float64)  # (heads, t, nope)
    if absorbed:
        scores = (queries @ head_up_keys.transpose(0, 2, 1)) @ seen.T  # (heads, t, visible)
    else:
        scores = queries @ (seen @ head_up_keys).transpose(0, 2, 1)
    rotary = q_rope.transpose(1, 0, 2).astype(np.float64) @ rope_keys[:visible].T
    scores += rotary * rope_gain
    flat = (scores * np.float32(scale)).astype(np.float32).reshape(heads * t, visible)
    weights = causal_weights(flat, t, offset, softmax, engine).reshape(heads, t, visible)
    if absorbed:
        mixed = (weights @ seen) @ head_up_values  # (heads, t, v)
    else:
        mixed = weights @ (seen @ head_up_values)
    return mixed.transpose(1, 0, 2).reshape(t, heads * v).astype(np.float32)


def attend_latents_quantized(
    q_nope: Float32Array,
    q_rope: Float32Array,
    up_keys: Float32Array,
    up_values: Float32Array,
    scales: Float32Array,
    *,
    offset: int,
    scale: float,
    rope_gain: float,
    engine: IntegerAttention,
) -> Float32Array:
    """Return latent attention (t, heads * v) by an engine that holds latents and rotary keys.

    ``scales`` (2,) are those of the two.
    """
    t, heads, nope = q_nope.shape
    rank = len(up_keys)
    head_up_keys = up_keys.astype(np.float64).reshape(rank, heads, nope)
    head_up_values = up_values.astype(np.float64).reshape(rank, heads, -1)
    to_latents = np.einsum("thn,rhn->htr", q_nope.astype(np.float64), head_up_keys, optimize=True)
    to_rope = q_rope.transpose(1, 0, 2).astype(np.float64) * rope_gain
    rows = [
        rotated(part.astype(np.float32)) * one
        for part, one in zip((to_latents, to_rope), scales, strict=True)
    ]
    lengths = np.tile(np.arange(offset + 1, offset + t + 1), heads)
    result = attend_rows(
        np.concatenate(rows, axis=2).reshape(1, heads * t, -1), lengths, scale=scale, engine=engine
    )
    mixed = rotated(result * scales[0]).reshape(heads, t, rank).astype(np.float64)
    by_token = np.einsum("htr,rhv->thv", mixed, head_up_values, optimize=True)
    return np.asarray(by_token.reshape(t, -1), np.float32)


def attend_latents_int8(
    q_nope: Float32Array,
    q_rope: Float32Array,
    latents: Float32Array,
    rope_keys: Float32Array,
    up_keys: Float32Array,
    up_values: Float32Array,
    *,
    offset: int,
    scale: float,
    rope_gain: float = 1.0,
    block: int,
) -> Float32Array:
    """Return latent attention (t, heads * v) as an engine that takes ``block`` keys at a time."""
    visible = offset + len(q_nope)
    seen = [rotated(part[:visible, None]) for part in (latents, rope_keys)]
    scales = [head_scales(largest_magnitudes(part)) for part in seen]
    values, turned = (quantize_heads(part, one) for part, one in zip(seen, scales, strict=True))
    engine = reference_attention(np.concatenate([values, turned], axis=2), values, block)
    return attend_latents_quantized(
        *(q_nope, q_rope, up_keys, up_values, np.concatenate(scales)),
        offset=offset,
        scale=scale,
        rope_gain=rope_gain,
        engine=engine,
    )


def _kernel(
    *inputs: Float32Array,
    offset: int,
    scale: float,
    rope_gain: float = 1.0,
    softmax: str | None = None,
    absorbed: bool | None = None,
) -> Float32Array:
    settings: dict[str, Any] = {"offset": offset, "scale": scale, "rope_gain": rope_gain}
    block = keys_at_a_time(softmax)
    if block is not None:
        return attend_latents_int8(*inputs, block=block, **settings)
    return attend_latents(*inputs, softmax=softmax, absorbed=absorbed, **settings)


OPERATOR = Operator("latent_attention", _shape, _cost, _kernel)
