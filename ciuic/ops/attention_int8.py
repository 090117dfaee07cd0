"""The form of attention that the overlay's engine computes: INT8 queries, keys and values.

Queries, keys and values are rotated first, which changes no product and spreads outliers, and
results are rotated back. Keys and values have a scale for each head, over all that the call sees;
queries are multiplied with those of the keys and then have a scale a row. The form's name says how
many keys the engine takes at a time, which rounding depends on: "int8x16" for 16. The arithmetic
between is `ciuic.reference.attention`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi.numerics import ATTENTION_FRACTION, SoftmaxScale
from ciuic.quantize import LEVELS, Float32Array, Int8Array, block_of, quantize_rows, rotate

STEPS = 4  # of a scale in an octave: a growing cache is quantized anew only when it leaves one
_NAME = re.compile(r"int8x([1-9][0-9]{0,2})")
_LEAST_SCALE = 1e-30  # stands for 0, when all scores are 0

# Integer attention of queries (kv_heads, rows, d), their scales [kv_heads][rows] and how many keys
# each row sees (rows,): int16 (kv_heads, rows, d_v) in units of 2**-ATTENTION_FRACTION values.
IntegerAttention = Callable[
    [Int8Array, Sequence[Sequence[SoftmaxScale]], npt.NDArray[np.int64]], npt.NDArray[np.int16]
]


def int8_form(block: int) -> str:
    """Return the name of the form that takes ``block`` keys at a time."""
    return f"int8x{block}"


def keys_at_a_time(form: str | None) -> int | None:
    """Return how many keys a form takes at a time; None if it is another form."""
    match = _NAME.fullmatch(form or "")
    return int(match[1]) if match else None


def rotated(rows: Float32Array) -> Float32Array:
    """Return rows (..., width), blocks of them times an orthogonal Hadamard matrix.

    That matrix is its own inverse: rotated again, they are what they were.
    """
    block = block_of(rows.shape[-1])
    result = rotate(np.ascontiguousarray(rows).reshape(-1, rows.shape[-1]), block)
    return (result * np.float32(block**-0.5)).reshape(rows.shape)


def largest_magnitudes(rows: Float32Array) -> Float32Array:
    """Return the largest magnitude of each head (heads,) in rows (n, heads, d); 0 if n is 0."""
    largest: Float32Array = np.abs(rows).max(axis=(0, 2), initial=0)
    return largest


def head_scales(largest: Float32Array) -> Float32Array:
    """Return the scales of heads (heads,) whose largest magnitudes are these.

    They are powers of two, to `STEPS` steps an octave.
    """
    least = np.maximum(largest.astype(np.float64), np.finfo(np.float32).tiny) / LEVELS
    scales = np.exp2(np.ceil(np.log2(least) * STEPS) / STEPS)
    return np.where(largest > 0, scales, 1).astype(np.float32)


def quantize_heads(rows: Float32Array, scales: Float32Array) -> Int8Array:
    """Return rows (n, heads, d) in units of the heads' scales (heads,), INT8."""
    units: Float32Array = np.rint(rows / scales[:, None])
    return np.clip(units, -LEVELS, LEVELS).astype(np.int8)


def attend_rows(
    rows: Float32Array,
    lengths: npt.NDArray[np.int64],
    *,
    scale: float,
    engine: IntegerAttention,
) -> Float32Array:
    """Return attention (kv_heads, m, d_v) in units of the values' integers.

    ``rows`` are queries (kv_heads, m, d) in units of the keys' integers; each sees the first
    ``lengths`` (m,) keys.
    """
    kv_heads, m, d = rows.shape
    values, scales = quantize_rows(rows.reshape(-1, d))
    per_row = scales.reshape(kv_heads, m).astype(np.float64) * scale
    encoded = [
        [SoftmaxScale.encode(max(one, _LEAST_SCALE)) for one in head] for head in per_row.tolist()
    ]
    result = engine(values.reshape(rows.shape), encoded, lengths)
    return result.astype(np.float32) / np.float32(1 << ATTENTION_FRACTION)


def attend_grouped(
    q: Float32Array,
    key_scales: Float32Array,
    value_scales: Float32Array,
    *,
    offset: int,
    scale: float,
    engine: IntegerAttention,
) -> Float32Array:
    """Return attention (t, heads * d_v) of queries (t, heads, d) by an engine that holds the rest.

    Query i sees keys 0 .. offset + i; ``key_scales`` and ``value_scales`` are (kv_heads,).
    """
    t, heads, d = q.shape
    kv_heads = len(key_scales)
    group = heads // kv_heads
    rows = q.reshape(t, kv_heads, group, d).transpose(1, 2, 0, 3).reshape(kv_heads, group * t, d)
    lengths = np.tile(np.arange(offset + 1, offset + t + 1), group)
    in_units = rotated(rows) * key_scales[:, None, None]
    result = attend_rows(in_units, lengths, scale=scale, engine=engine)
    mixed = rotated(result * value_scales[:, None, None]).reshape(kv_heads, group, t, -1)
    return np.ascontiguousarray(mixed.transpose(2, 0, 1, 3)).reshape(t, -1)


def attend_int8(
    q: Float32Array,
    keys: Float32Array,
    values: Float32Array,
    *,
    offset: int,
    scale: float,
    block: int,
) -> Float32Array:
    """Return attention (t, heads * head_dim) as an engine that takes ``block`` keys at a time."""
    visible = offset + q.shape[0]
    seen_keys, seen_values = rotated(keys[:visible]), rotated(values[:visible])
    scales = [head_scales(largest_magnitudes(seen)) for seen in (seen_keys, seen_values)]
    engine = reference_attention(
        quantize_heads(seen_keys, scales[0]), quantize_heads(seen_values, scales[1]), block
    )
    return attend_grouped(q, *scales, offset=offset, scale=scale, engine=engine)


def reference_attention(keys: Int8Array, values: Int8Array, block: int) -> IntegerAttention:
    """Return the golden model with keys and values (n, kv_heads, ...)."""

    def engine(
        queries: Int8Array,
        scales: Sequence[Sequence[SoftmaxScale]],
        lengths: npt.NDArray[np.int64],
    ) -> npt.NDArray[np.int16]:
        heads = [
            reference.attention(
                queries[head],
                keys[:, head],
                values[:, head],
                multipliers=[one.multiplier for one in scales[head]],
                shifts=[one.shift for one in scales[head]],
                lengths=lengths,
                block=block,
            )
            for head in range(len(queries))
        ]
        return np.stack(heads)

    return engine
