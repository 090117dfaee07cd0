"""Operators that move rows or columns: embedding, kv_append, slice_rows and join_columns.

embedding(ids int32 (t,), table (vocab, d)) -> (t, d)
kv_append(cache (T, ...), rows (t, ...), offset) -> the cache, its rows from ``offset`` written
slice_rows(x (t, ...), start, stop) -> (stop - start, ...)
join_columns(x (t, n), y (t, m), ...) -> (t, n + m + ...)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError
from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elements, require


def _moved(shape: Shape) -> Cost:
    return Cost(0, 2 * 4 * elements(shape))


def _embedding_shape(ids: Spec, table: Spec) -> Shape:
    fits = (
        len(ids.shape) == 1
        and ids.dtype == np.int32
        and len(table.shape) == 2
        and table.dtype == np.float32
    )
    require(fits, "embedding", "int32 (t,) and float32 (vocab, d)", (ids, table))
    return (ids.shape[0], table.shape[1])


def _embedding_cost(ids: Spec, table: Spec) -> Cost:
    return _moved((ids.shape[0], table.shape[1]))


def _embedding(
    ids: npt.NDArray[np.int32], table: Float32Array, *, out: Float32Array | None = None
) -> Float32Array:
    if ids.size and (ids.min() < 0 or ids.max() >= table.shape[0]):
        raise ShapeError(
            f"ids must be from 0 to {table.shape[0] - 1}, not {ids.min()} to {ids.max()}"
        )
    # They are in range, and clipping to it is what numpy does without a copy on the way.
    return np.take(table, ids, axis=0, out=out, mode="clip")


def _kv_append_shape(cache: Spec, rows: Spec, *, offset: int) -> Shape:
    fits = (
        cache.shape[1:] == rows.shape[1:]
        and cache.dtype == rows.dtype == np.float32
        and 0 <= offset <= cache.shape[0] - rows.shape[0]
    )
    require(
        fits, "kv_append", f"float32 (T, ...) and (t, ...) with T >= {offset} + t", (cache, rows)
    )
    return cache.shape


def _kv_append_cost(cache: Spec, rows: Spec, *, offset: int) -> Cost:
    return _moved(rows.shape)


def _kv_append(cache: Float32Array, rows: Float32Array, *, offset: int) -> Float32Array:
    cache[offset : offset + rows.shape[0]] = rows
    return cache


def _slice_rows_shape(x: Spec, *, start: int, stop: int) -> Shape:
    fits = x.dtype == np.float32 and len(x.shape) > 0 and 0 <= start < stop <= x.shape[0]
    require(fits, "slice_rows", f"float32 with rows {start} to {stop}", (x,))
    return (stop - start, *x.shape[1:])


def _slice_rows_cost(x: Spec, *, start: int, stop: int) -> Cost:
    return _moved((stop - start, *x.shape[1:]))


def _slice_rows(x: Float32Array, *, start: int, stop: int) -> npt.NDArray[Any]:
    return x[start:stop].copy()


def _join_columns_shape(*parts: Spec) -> Shape:
    fits = len(parts) > 0 and all(
        len(part.shape) == 2 and part.shape[0] == parts[0].shape[0] and part.dtype == np.float32
        for part in parts
    )
    require(fits, "join_columns", "float32 (t, n), (t, m), ...", parts)
    return (parts[0].shape[0], sum(part.shape[1] for part in parts))


def _join_columns_cost(*parts: Spec) -> Cost:
    return _moved(_join_columns_shape(*parts))


def _join_columns(*parts: Float32Array, out: Float32Array | None = None) -> Float32Array:
    return np.concatenate(parts, axis=1, out=out)


EMBEDDING = Operator("embedding", _embedding_shape, _embedding_cost, _embedding, takes_out=True)
KV_APPEND = Operator("kv_append", _kv_append_shape, _kv_append_cost, _kv_append, in_place=True)
SLICE_ROWS = Operator("slice_rows", _slice_rows_shape, _slice_rows_cost, _slice_rows)
JOIN_COLUMNS = Operator(
    "join_columns", _join_columns_shape, _join_columns_cost, _join_columns, takes_out=True
)
