"""The cache gives back what was appended, in blocks, up to the model's context."""

from __future__ import annotations

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.models.kv_cache import BLOCK_SLOTS, KvCache, LayerCache


def test_append_returns_everything_so_far() -> None:
    seed = 11
    rng = np.random.default_rng(seed)
    cache = LayerCache(n_kv_heads=2, head_dim=4, max_seq_len=3 * BLOCK_SLOTS)
    parts: list[np.ndarray] = []
    for t in (1, 5, BLOCK_SLOTS - 6, 1, BLOCK_SLOTS):
        part = rng.standard_normal((t, 2, 4)).astype(np.float32)
        parts.append(part)
        keys, values = cache.append(part, -part)
        assert np.array_equal(keys, np.concatenate(parts)), f"seed {seed}"
        assert np.array_equal(values, -np.concatenate(parts)), f"seed {seed}"
    assert cache.length == 2 * BLOCK_SLOTS + 1


def test_memory_grows_in_blocks() -> None:
    cache = KvCache(n_layers=3, n_kv_heads=2, head_dim=4, max_seq_len=1000)
    assert cache.nbytes == 0
    token = np.zeros((1, 2, 4), np.float32)
    for layer in cache.layers:
        layer.append(token, token)
    assert cache.length == 1
    assert cache.nbytes == 3 * 2 * BLOCK_SLOTS * 2 * 4 * 4


def test_context_beyond_the_longest_is_refused_and_changes_nothing() -> None:
    cache = LayerCache(n_kv_heads=1, head_dim=2, max_seq_len=4)
    token = np.zeros((3, 1, 2), np.float32)
    cache.append(token, token)
    with pytest.raises(UsageError, match=r"^the context must be at most 4 tokens, not 6$"):
        cache.append(token, token)
    assert cache.length == 3
