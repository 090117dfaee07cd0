"""Operators: what a model asks of a device. One file each: shape rule, cost rule, numpy kernel.

===============  ===============================================================================
linear           x (t, k), w INT8 (k, n), bias? (n,)                  -> (t, n)
linear_int4      x (t, k), w INT4 (k, n), bias? (n,)                  -> (t, n)
linear_float32   x (t, k), w (k, n), bias? (n,)                       -> (t, n)
hadamard         x (t, k); block                                      -> (t, k)
rms_norm         x (t, d), weight (d,); eps                           -> (t, d)
rope             x (t, heads, hd), positions int32 (t,);
                 theta, interleaved=False, scaling=None               -> (t, heads, hd)
attention        q (t, heads, hd), keys, values (T, kv_heads, hd);
                 offset, scale,
                 softmax="exact"|"q16"|"int8x<block>"|None            -> (t, heads * hd)
latent_attention q_nope (t, heads, nope), q_rope (t, heads, rope), latents (T, rank),
                 rope_keys (T, rope), up_keys (rank, heads * nope),
                 up_values (rank, heads * v); offset, scale, rope_gain=1.0,
                 softmax as attention, absorbed=None                  -> (t, heads * v)
softmax          x (rows, cols); scale=1.0                            -> (rows, cols)
silu_mul         gate (t, h), up (t, h)                               -> (t, h)
add              x, y                                                 -> shape of x
embedding        ids int32 (t,), table (vocab, d)                     -> (t, d)
kv_append        cache (T, ...), rows (t, ...); offset                -> the cache itself
slice_rows       x (t, ...); start, stop                              -> (stop - start, ...)
join_columns     x (t, n), y (t, m), ...                              -> (t, n + m + ...)
route_tokens     x (t, d), weight (d, experts), bias (experts,); top_k,
                 n_group=1, topk_group=1, normalize=True, scale=1.0,
                 scoring="sigmoid"|"softmax"                          -> (t, experts)
add_rows         x (t, d), rows (n, d), ids int32 (n,), shares (n,)   -> (t, d)
expression       inputs of a traced program; program                  -> its result
===============  ===============================================================================

Arrays are float32 unless another dtype is named.
"""

from .custom import CustomOperator, register_operator, registered_operator
from .operator import Cost, Operator, Shape, Spec
from .registry import OPERATORS

__all__ = [
    "OPERATORS",
    "Cost",
    "CustomOperator",
    "Operator",
    "Shape",
    "Spec",
    "register_operator",
    "registered_operator",
]
