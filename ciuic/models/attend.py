"""Attention of the tokens that go through a layer, over the cache of one or several sequences.

Everything else in a layer treats each row of its input by itself. So tokens of several sequences
can go through it as rows of one array, and each weight is read once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np

from ciuic.devices import DeviceArray, Weight
from ciuic.tensor import CiuicTensor

from .kv_cache import LayerCache
from .placed import Placed


@dataclass(frozen=True)
class PackedLayerCache:
    """The caches of several sequences in one layer.

    Attributes
    ----------
    caches
        One of each sequence.
    counts
        How many of the rows that go through the layer are of each sequence, in the same order.
    """

    caches: Sequence[LayerCache]
    counts: Sequence[int]

    def parts(self) -> Iterator[tuple[LayerCache, int, int]]:
        """Yield each sequence's cache, and where its rows start and stop."""
        for cache, count, stop in zip(
            self.caches, self.counts, accumulate(self.counts), strict=True
        ):
            yield cache, stop - count, stop


Cache = LayerCache | PackedLayerCache | None
"""Where a layer finds the tokens before: of one sequence, of several, or nowhere."""


def positions_after(cache: Cache, rows: int) -> CiuicTensor:
    """Return the positions of the next tokens, int32 (rows,)."""
    if isinstance(cache, PackedLayerCache):
        parts = [one.length + np.arange(stop - start) for one, start, stop in cache.parts()]
        return CiuicTensor.from_numpy(np.concatenate(parts).astype(np.int32))
    start = 0 if cache is None else cache.length
    return CiuicTensor.from_numpy(np.arange(start, start + rows, dtype=np.int32))


def attend(
    on: Placed,
    op: str,
    queries: Sequence[DeviceArray],
    new: tuple[DeviceArray, DeviceArray],
    weights: Sequence[Weight] = (),
    *,
    cache: Cache,
    **attributes: Any,
) -> DeviceArray:
    """Take tokens into their caches and submit their attention; return its result (t, width).

    Parameters
    ----------
    on
        Where to run.
    op
        ``attention`` or ``latent_attention``.
    queries, new, weights
        Its inputs: arrays (t, ...) of queries, the two of what the cache holds of these tokens,
        and weights.
    cache
        Holds the tokens before these, and these afterwards.
    attributes
        Of the operator, but for ``offset``.
    """
    if cache is None:
        return on.run(op, *queries, *new, *weights, offset=0, **attributes)
    if isinstance(cache, LayerCache):
        offset = cache.length
        held = cache.append(*new, on)
        return on.run(op, *queries, *held, *weights, offset=offset, **attributes)
    result = None
    for one, start, stop in cache.parts():
        *some, first, second = (
            on.run("slice_rows", array, start=start, stop=stop) for array in (*queries, *new)
        )
        mixed = attend(on, op, some, (first, second), weights, cache=one, **attributes)
        if result is None:
            shape = (new[0].shape[0], *mixed.shape[1:])
            result = on.runtime.zeros(shape, device=on.home("kv_append"))
        on.run("kv_append", result, mixed, offset=start)
    assert result is not None  # a pack has at least one sequence
    return result


def packs(lengths: Sequence[int], most: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield packs of parts of sequences, in order, of ``most`` tokens each but the last.

    A part is which sequence, and where it starts and stops there.
    """
    pack: list[tuple[int, int, int]] = []
    room = most
    for index, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            pack.append((index, start, stop))
            room -= stop - start
            start = stop
            if not room:
                yield pack
                pack, room = [], most
    if pack:
        yield pack
