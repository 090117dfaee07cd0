"""Operators: what a model asks of a device. One file each: shape rule, cost rule, numpy kernel.

===============  ===============================================================================
linear           x (t, k), w INT8 (k, n), bias? (n,)                  -> (t, n)
linear_float32   x (t, k), w (k, n), bias? (n,)                       -> (t, n)
rms_norm         x (t, d), weight (d,); eps                           -> (t, d)
rope             x (t, heads, hd), positions int32 (t,);
                 theta, interleaved=False                             -> (t, heads, hd)
attention        q (t, heads, hd), keys, values (T, kv_heads, hd);
                 offset, scale, softmax="exact"|"q16"|None            -> (t, heads * hd)
softmax          x (rows, cols); scale=1.0                            -> (rows, cols)
silu_mul         gate (t, h), up (t, h)                               -> (t, h)
add              x, y                                                 -> shape of x
embedding        ids int32 (t,), table (vocab, d)                     -> (t, d)
kv_append        cache (T, ...), rows (t, ...); offset                -> the cache itself
slice_rows       x (t, ...); start, stop                              -> (stop - start, ...)
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
