"""The form of attention that the overlay's engine computes: INT8 queries, keys and values.

Queries, keys and values are rotated first, which changes no product and spreads outliers, and
results are rotated back. Keys and values have a scale for each head; queries are multiplied with
those of the keys and then have a scale a row. The form's name says how many keys the engine takes
at a time, which rounding depends on: "int8x16" for 16. The arithmetic between is
`ciuic.reference.attention`.

The scales of a token are those of the keys and values that it sees, so that its result does not
depend on which tokens go through together. The engine has one scale a head at a time; so tokens go
through it in rounds (`attend_rounds`), a head's next scales in each. Scales only grow, in steps,
with the largest magnitude so far: there are some rounds at the beginning of a text and few later.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi.numerics import ATTENTION_FRACTION, SoftmaxScale
from ciuic.quantize import LEVELS, Float32Array, Int8Array, block_of, quantize_rows, rotate

STEPS = 4  # of a scale in an octave: a growing cache is quantized anew only when it leaves one
_NAME = re.compile(r"int8x([1-9][0-9]{0,2})")
_LEAST_SCALE = 1e-30  # stands for 0, when all scores are 0


class HeadRows(NamedTuple):
    """Queries of one head in a round.

    Attributes
    ----------
    queries
        INT8 (m, d).
    scales
        Of their scores (m,).
    lengths
        How many keys each sees (m,), from the first on.
    """

    queries: Int8Array
    scales: Sequence[SoftmaxScale]
    lengths: npt.NDArray[np.int64]


# Integer attention of a round: the scales of keys (sources, kv_heads), which lie side by side, and
# of values (kv_heads,), and the rows of each head that has any: head -> int16 (m, d_v) in units of
# 2**-ATTENTION_FRACTION values.
IntegerAttention = Callable[
    [Float32Array, Float32Array, Mapping[int, HeadRows]], Mapping[int, npt.NDArray[np.int16]]
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


def magnitudes(rows: Float32Array) -> Float32Array:
    """Return the largest magnitude of each row and head (n, heads) in rows (n, heads, d)."""
    return np.asarray(np.abs(rows).max(axis=2))


def seen_scales(rows: Float32Array, offset: int, before: Float32Array | float = 0) -> Float32Array:
    """Return the scales (t, heads) of tokens, of which i sees rows 0 .. offset + i.

    ``rows`` are (offset + t, heads, d), ``before`` is the largest magnitude of rows that come
    before these (heads,).
    """
    largest = np.maximum.accumulate(magnitudes(rows), axis=0)[offset:]
    return head_scales(np.maximum(largest, np.asarray(before, np.float32)))


def head_scales(largest: Float32Array) -> Float32Array:
    """Return the scales of heads (..., heads) whose largest magnitudes are these.

    They are powers of two, to `STEPS` steps an octave.
    """
    least = np.maximum(largest.astype(np.float64), np.finfo(np.float32).tiny) / LEVELS
    scales = np.exp2(np.ceil(np.log2(least) * STEPS) / STEPS)
    return np.where(largest > 0, scales, 1).astype(np.float32)


def quantize_heads(rows: Float32Array, scales: Float32Array) -> Int8Array:
    """Return rows (n, heads, d) in units of the heads' scales (heads,), INT8, saturated."""
    units: Float32Array = np.rint(rows / scales[:, None])
    return np.clip(units, -LEVELS, LEVELS).astype(np.int8)


def attend_rounds(
    queries: Sequence[Float32Array],
    key_scales: Float32Array,
    value_scales: Float32Array,
    *,
    offset: int,
    scale: float,
    engine: IntegerAttention,
) -> Float32Array:
    """Return attention (kv_heads, group, t, d_v) of tokens that each see the keys up to their own.

    Parameters
    ----------
    queries
        (kv_heads, group, t, d) of each source of keys, rotated; the sources lie side by side.
    key_scales, value_scales
        (sources, t, kv_heads) and (t, kv_heads): those of `seen_scales`.
    offset
        Keys before the first token.
    scale
        Of the scores.
    engine
        Holds keys and values.
    """
    in_units = np.concatenate(
        [part * one.T[:, None, :, None] for part, one in zip(queries, key_scales, strict=True)],
        axis=3,
    )
    kv_heads, group, t, d = in_units.shape
    values, row_scales = quantize_rows(in_units.reshape(-1, d))
    values = values.reshape(in_units.shape)
    per_row = row_scales.reshape(in_units.shape[:3]).astype(np.float64) * scale
    all_scales = np.concatenate([key_scales, value_scales[None]])  # (sources + 1, t, kv_heads)
    changes = (all_scales[:, 1:] != all_scales[:, :-1]).any(axis=0)
    round_of = np.zeros((t, kv_heads), np.int64)
    np.cumsum(changes, axis=0, out=round_of[1:])
    result: Float32Array | None = None
    for turn in range(int(round_of[-1].max()) + 1):
        now = np.minimum(turn, round_of[-1])  # heads that are through keep their last scales
        first = (round_of == now).argmax(axis=0)
        scales = np.take_along_axis(all_scales, first[None, None], axis=1)[:, 0]
        tokens = {
            head: np.flatnonzero(round_of[:, head] == turn)
            for head in range(kv_heads)
            if turn <= round_of[-1, head]
        }
        rows = {
            head: HeadRows(
                np.ascontiguousarray(values[head][:, at]).reshape(-1, d),
                [
                    SoftmaxScale.encode(max(one, _LEAST_SCALE))
                    for one in per_row[head][:, at].reshape(-1).tolist()
                ],
                np.tile(offset + 1 + at, group),
            )
            for head, at in tokens.items()
        }
        for head, mixed in engine(scales[:-1], scales[-1], rows).items():
            if result is None:
                result = np.empty((kv_heads, group, t, mixed.shape[1]), np.float32)
            result[head][:, tokens[head]] = mixed.reshape(group, -1, mixed.shape[1])
    assert result is not None  # there is at least one token
    return result / np.float32(1 << ATTENTION_FRACTION) * value_scales.T[:, None, :, None]


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

    Query i sees keys 0 .. offset + i; ``key_scales`` and ``value_scales`` are (t, kv_heads).
    """
    t, heads, d = q.shape
    kv_heads = key_scales.shape[1]
    rows = rotated(q.reshape(t, kv_heads, heads // kv_heads, d).transpose(1, 2, 0, 3))
    result = attend_rounds(
        [rows], key_scales[None], value_scales, offset=offset, scale=scale, engine=engine
    )
    return np.ascontiguousarray(rotated(result).transpose(2, 0, 1, 3)).reshape(t, -1)


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
    seen = rotated(keys[:visible]), rotated(values[:visible])
    scales = [seen_scales(rows, offset) for rows in seen]
    engine = reference_attention([seen[0]], seen[1], block)
    return attend_grouped(q, *scales, offset=offset, scale=scale, engine=engine)


def reference_attention(
    keys: Sequence[Float32Array], values: Float32Array, block: int
) -> IntegerAttention:
    """Return the golden model with rotated keys, of each source, and values (n, kv_heads, ...)."""

    def engine(
        key_scales: Float32Array, value_scales: Float32Array, rows: Mapping[int, HeadRows]
    ) -> Mapping[int, npt.NDArray[np.int16]]:
        found = {}
        for head, one in rows.items():
            seen, only = int(one.lengths.max()), slice(head, head + 1)
            parts = [
                quantize_heads(source[:seen, only], scales[only])[:, 0]
                for source, scales in zip(keys, key_scales, strict=True)
            ]
            found[head] = reference.attention(
                one.queries,
                np.concatenate(parts, axis=1),
                quantize_heads(values[:seen, only], value_scales[only])[:, 0],
                multipliers=[scale.multiplier for scale in one.scales],
                shifts=[scale.shift for scale in one.scales],
                lengths=one.lengths,
                block=block,
            )
        return found

    return engine
