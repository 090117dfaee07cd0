"""The cache gives back what was appended, in blocks, up to the model's context."""

from __future__ import annotations

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.models.kv_cache import BLOCK_SLOTS, KvCache, LayerCache
from ciuic.models.placed import Placed
from ciuic.runtime import Runtime


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    return Runtime()


def append(cache: LayerCache, runtime: Runtime, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    on = Placed(runtime, "cpu")
    keys, values = cache.append(runtime.place(rows), runtime.place(-rows), on)
    return keys.numpy(), values.numpy()


def test_append_returns_everything_so_far(runtime: Runtime) -> None:
    seed = 11
    rng = np.random.default_rng(seed)
    cache = LayerCache(runtime, ((2, 4), (2, 4)), max_seq_len=3 * BLOCK_SLOTS)
    expected = np.empty((0, 2, 4), np.float32)
    for t in (1, 5, BLOCK_SLOTS - 6, 1, BLOCK_SLOTS):
        rows = rng.standard_normal((t, 2, 4)).astype(np.float32)
        expected = np.concatenate([expected, rows])
        keys, values = append(cache, runtime, rows)
        assert cache.length == len(expected)
        assert np.array_equal(keys[: cache.length], expected), f"seed {seed}"
        assert np.array_equal(values[: cache.length], -expected), f"seed {seed}"


def test_memory_grows_in_blocks(runtime: Runtime) -> None:
    cache = KvCache(
        runtime, n_layers=3, slot_shapes=((2, 4), (2, 4)), max_seq_len=1000, fingerprint=str
    )
    assert cache.nbytes == 0
    for layer in cache.layers:
        append(layer, runtime, np.zeros((1, 2, 4), np.float32))
    assert cache.length == 1
    assert cache.nbytes == 3 * 2 * BLOCK_SLOTS * 2 * 4 * 4


def test_context_beyond_the_longest_is_refused_and_changes_nothing(runtime: Runtime) -> None:
    cache = LayerCache(runtime, ((1, 2), (1, 2)), max_seq_len=4)
    rows = np.zeros((3, 1, 2), np.float32)
    append(cache, runtime, rows)
    with pytest.raises(UsageError, match=r"^the context must be at most 4 tokens, not 6$"):
        append(cache, runtime, rows)
    assert cache.length == 3
