"""Modified Kneser-Ney n-gram models over token ids, all positions of a text at once.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling" (1998),
section 3: interpolated, three discounts an order, no cut-off.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

BOS_ID = 0


def grams(tokens: np.ndarray, order: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the key of the n-gram that ends at each token, and whether it lies in one chunk."""
    keys, whole = np.zeros(len(tokens), dtype=np.int64), np.arange(len(tokens)) >= order - 1
    for back in range(order - 1, -1, -1):
        shifted = np.roll(tokens.astype(np.int64), back)
        keys = keys * vocab_size + shifted
        if back < order - 1:
            whole &= shifted != BOS_ID  # a chunk begins there
    return keys, whole


def probabilities(
    train: np.ndarray, held_out: np.ndarray, vocab_size: int, orders: int
) -> np.ndarray:
    """Return the probability of each held-out token after those before it in its chunk.

    Chunks begin with BOS, which is never predicted (its entries mean nothing). n-grams that begin
    with BOS keep their plain counts: nothing can stand before them.

    Raises
    ------
    ValueError
        If the keys of the longest n-grams do not fit 63 bits.
    """
    if vocab_size**orders >= 2**63:
        raise ValueError(f"vocab_size ** orders must be below 2**63, not {vocab_size}**{orders}")
    words = held_out != BOS_ID
    result = np.full(len(held_out), 1 / (vocab_size - 1))  # BOS is never predicted
    tables = [
        np.unique(keys[whole], return_counts=True)
        for keys, whole in (grams(train, order, vocab_size) for order in range(1, orders + 1))
    ]
    for order in range(1, orders + 1):
        keys, counts = tables[order - 1]
        if order < orders:
            longer, _ = tables[order]
            after, kinds = np.unique(longer % vocab_size**order, return_counts=True)
            plain = keys // vocab_size ** (order - 1) == BOS_ID
            counts = np.where(plain, counts, 0)
            counts[np.searchsorted(keys, after)] += np.where(
                after // vocab_size ** (order - 1) == BOS_ID, 0, kinds
            )
        if order == 1:
            counts = np.where(keys == BOS_ID, 0, counts)
        n = [int((counts == k).sum()) for k in range(1, 5)]
        ratio = n[0] / (n[0] + 2 * n[1]) if n[0] else 0.0
        steps = [
            k - (k + 1) * ratio * b / a if a else 0.0 for k, (a, b) in enumerate(pairwise(n), 1)
        ]
        discounts = np.array([0.0, *steps])[np.minimum(counts, 3)]
        contexts, starts = np.unique(keys // vocab_size, return_index=True)
        totals = np.add.reduceat(counts, starts)
        freed = np.add.reduceat(discounts, starts)
        wanted, whole = grams(held_out, order, vocab_size)
        context = np.minimum(np.searchsorted(contexts, wanted // vocab_size), len(contexts) - 1)
        known = whole & words & (contexts[context] == wanted // vocab_size) & (totals[context] > 0)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        kept = np.where(keys[at] == wanted, counts[at] - discounts[at], 0.0)
        mixed = (kept + freed[context] * result) / np.maximum(totals[context], 1)
        result = np.where(known, mixed, result)
    return result


def perplexity(train: np.ndarray, held_out: np.ndarray, vocab_size: int, orders: int = 5) -> float:
    """Return the perplexity of a held-out text that begins with BOS, over all but BOS."""
    result = probabilities(train, held_out, vocab_size, orders)
    return float(np.exp(-np.log(result[held_out != BOS_ID]).mean()))
