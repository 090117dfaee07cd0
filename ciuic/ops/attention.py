"""attention: causal grouped-query attention of queries against cached keys and values.

q (t, heads, head_dim), keys and values (T, kv_heads, head_dim) with T >= offset + t; query i
sees keys 0 .. offset + i, so rows of the cache beyond offset + t may hold anything.
The result is (t, heads * head_dim). ``softmax`` is "exact", "q16" (the overlay's fixed point),
"int8x<block>" (all of it as the overlay's attention engine, `ciuic.ops.attention_int8`) or None:
the form of the device's own, `Device.attention`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.errors import UsageError
from ciuic.quantize import Float32Array

from .attention_int8 import attend_int8, keys_at_a_time
from .operator import Cost, Operator, Shape, Spec, elements, require
from .softmax import IntegerSoftmax, probabilities, reference_softmax, softmax_q16

SOFTMAX_KINDS = ("exact", "q16", None)


def _shape(
    q: Spec, keys: Spec, values: Spec, *, offset: int, scale: float, softmax: str | None = None
) -> Shape:
    inputs = (q, keys, values)
    fits = (
        len(q.shape) == len(keys.shape) == 3
        and keys.shape == values.shape
        and q.shape[2] == keys.shape[2]
        and q.shape[1] % keys.shape[1] == 0
        and 0 <= offset <= keys.shape[0] - q.shape[0]
        and all(value.dtype == np.float32 for value in inputs)
    )
    wanted = (
        f"float32 (t, heads, head_dim) and twice (T, kv_heads, head_dim) with T >= {offset} + t"
    )
    require(fits, "attention", wanted, inputs)
    require_softmax(softmax)
    return (q.shape[0], q.shape[1] * q.shape[2])


def _cost(
    q: Spec, keys: Spec, values: Spec, *, offset: int, scale: float, softmax: str | None = None
) -> Cost:
    t, heads, head_dim = q.shape
    visible = offset + t
    cached = visible * elements(keys.shape[1:])
    return Cost(t * heads * visible * (4 * head_dim + 8), 4 * (2 * elements(q.shape) + 2 * cached))


def attend(
    q: Float32Array,
    keys: Float32Array,
    values: Float32Array,
    *,
    offset: int,
    scale: float,
    softmax: str | None = None,
    engine: IntegerSoftmax = reference_softmax,
) -> Float32Array:
    """Return attention (t, heads * head_dim); ``engine`` computes the softmax of "q16"."""
    t, heads, head_dim = q.shape
    kv_heads = keys.shape[1]
    visible = offset + t
    group = heads // kv_heads
    # (kv_heads, group * t, head_dim): the queries that share a head of keys in one product.
    by_head = q.reshape(t, kv_heads, group, head_dim).transpose(1, 2, 0, 3)
    grouped = by_head.reshape(kv_heads, group * t, head_dim)
    seen_keys = keys[:visible].transpose(1, 2, 0).astype(np.float64)
    scores = grouped.astype(np.float64) @ seen_keys * np.float32(scale)
    flat = scores.astype(np.float32).reshape(heads * t, visible)
    weights = causal_weights(flat, t, offset, softmax, engine)
    seen_values = values[:visible].transpose(1, 0, 2).astype(np.float64)
    mixed = weights.reshape(kv_heads, group * t, visible) @ seen_values
    by_token = mixed.reshape(kv_heads, group, t, head_dim).transpose(2, 0, 1, 3)
    return by_token.reshape(t, heads * head_dim).astype(np.float32)


def causal_weights(
    scores: Float32Array, t: int, offset: int, softmax: str | None, engine: IntegerSoftmax
) -> npt.NDArray[np.float64]:
    """Return the softmax of scores (heads * t, offset + t); query i sees keys 0 .. offset + i.

    ``scores`` may be changed.
    """
    visible = offset + t
    lengths = np.tile(np.arange(offset + 1, visible + 1, dtype=np.int32), scores.shape[0] // t)
    if softmax == "q16":
        return softmax_q16(scores, lengths=lengths, engine=engine).astype(np.float64)
    if t > 1:
        scores[np.arange(visible) >= lengths[:, None]] = -np.inf
    return probabilities(scores)


def require_softmax(softmax: str | None) -> None:
    """Raise `UsageError` unless this names a form of attention."""
    if softmax not in SOFTMAX_KINDS and keys_at_a_time(softmax) is None:
        raise UsageError(f"softmax must be 'exact', 'q16', 'int8x<block>' or None, not {softmax!r}")


def _kernel(
    q: Float32Array,
    keys: Float32Array,
    values: Float32Array,
    *,
    offset: int,
    scale: float,
    softmax: str | None = None,
) -> Float32Array:
    block = keys_at_a_time(softmax)
    if block is not None:
        return attend_int8(q, keys, values, offset=offset, scale=scale, block=block)
    return attend(q, keys, values, offset=offset, scale=scale, softmax=softmax)


OPERATOR = Operator("attention", _shape, _cost, _kernel)
