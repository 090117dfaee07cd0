"""The n-gram model against a plain one that counts with dictionaries."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "tools" / "kneser_ney.py"
SPEC = importlib.util.spec_from_file_location("kneser_ney", SOURCE)
assert SPEC is not None
assert SPEC.loader is not None
kneser_ney = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(kneser_ney)

BOS, WORDS = kneser_ney.BOS_ID, 7
Gram = tuple[int, ...]


class Plain:
    """Interpolated modified Kneser-Ney, one probability at a time."""

    def __init__(self, chunks: list[list[int]], orders: int) -> None:
        kinds: dict[Gram, set[int]] = defaultdict(set)  # what stands before a gram
        seen: list[Counter[Gram]] = [Counter() for _ in range(orders + 1)]
        for chunk in chunks:
            for order in range(1, orders + 1):
                for end in range(max(order, 2), len(chunk) + 1):
                    seen[order][tuple(chunk[end - order : end])] += 1
        for order in range(2, orders + 1):
            for gram in seen[order]:
                kinds[gram[1:]].add(gram[0])
        self.counts: list[Counter[Gram]] = [Counter()]
        self.discounts: list[list[float]] = [[]]
        for order in range(1, orders + 1):
            highest = order == orders
            counts = Counter(
                {
                    gram: count if highest or gram[0] == BOS else len(kinds[gram])
                    for gram, count in seen[order].items()
                }
            )
            n = [sum(count == k for count in counts.values()) for k in range(1, 5)]
            y = n[0] / (n[0] + 2 * n[1]) if n[0] else 0.0
            found = [k - (k + 1) * y * n[k] / n[k - 1] if n[k - 1] else 0.0 for k in (1, 2, 3)]
            self.counts.append(counts)
            self.discounts.append([0.0, *found])

    def probability(self, context: Gram, word: int) -> float:
        """Return the probability of a word after the words before it in its chunk."""
        result = 1 / (WORDS - 1)
        for order in range(1, len(self.counts)):
            if order - 1 > len(context):
                break
            before = context[len(context) - order + 1 :]
            after = {w: self.counts[order][(*before, w)] for w in range(1, WORDS)}
            total = sum(after.values())
            if total == 0:
                break
            discount = {w: self.discounts[order][min(count, 3)] for w, count in after.items()}
            kept = after[word] - discount[word]
            result = (kept + sum(discount.values()) * result) / total
        return result


def text(seed: int, chunks: int) -> list[list[int]]:
    random = np.random.default_rng(seed)
    weights = np.arange(WORDS - 1, 0, -1) ** 2
    return [
        [BOS, *(1 + random.choice(WORDS - 1, 40, p=weights / weights.sum()))] for _ in range(chunks)
    ]


@pytest.mark.parametrize("orders", [1, 2, 3, 4])
def test_probabilities_are_those_of_the_plain_model(orders: int) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    train, held_out = text(seed, 12), text(seed + 1, 3)
    plain = Plain(train, orders)
    got = kneser_ney.probabilities(np.concatenate(train), np.concatenate(held_out), WORDS, orders)
    want = [
        plain.probability(tuple(chunk[:at]), chunk[at])
        for chunk in held_out
        for at in range(1, len(chunk))
    ]
    np.testing.assert_allclose(got[np.concatenate(held_out) != BOS], want, rtol=1e-12)


def test_perplexity_is_that_of_the_probabilities() -> None:
    """Of pairs: discounts of longer grams from so little text may leave less than nothing."""
    train, held_out = np.concatenate(text(1, 12)), np.concatenate(text(2, 3))
    words = kneser_ney.probabilities(train, held_out, WORDS, 2)[held_out != BOS]
    assert words.min() > 0
    expected = math.exp(-np.log(words).mean())
    assert kneser_ney.perplexity(train, held_out, WORDS, 2) == pytest.approx(expected)


def test_keys_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^vocab_size \*\* orders must be below 2\*\*63"):
        kneser_ney.probabilities(np.zeros(1), np.zeros(1), 4096, 6)
