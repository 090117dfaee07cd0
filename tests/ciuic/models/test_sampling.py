"""The sampler's filters, penalties and ranges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.models.sampling import Sampler, SamplingOptions

PROBABILITIES = np.array([0.05, 0.4, 0.3, 0.05, 0.2])
LOGITS = np.log(PROBABILITIES).astype(np.float32) + np.float32(3)


def kept(**options: Any) -> dict[int, float]:
    ids, probabilities = Sampler(SamplingOptions(temperature=1.0, **options)).candidates(LOGITS)
    assert probabilities.sum() == pytest.approx(1)
    return {int(id_): float(p) for id_, p in zip(ids, probabilities, strict=True)}


def test_greedy_takes_the_first_largest() -> None:
    assert Sampler(SamplingOptions()).choose(LOGITS) == 1
    assert Sampler(SamplingOptions()).choose(np.zeros(4, np.float32)) == 0


def test_candidates_are_the_softmax() -> None:
    assert kept() == pytest.approx({1: 0.4, 2: 0.3, 4: 0.2, 0: 0.05, 3: 0.05}, rel=1e-5)


def test_smaller_ids_come_first_among_equals() -> None:
    sampler = Sampler(SamplingOptions(temperature=1.0, top_k=3))
    assert sampler.candidates(np.zeros(1000, np.float32))[0].tolist() == [0, 1, 2]


def test_temperature_sharpens() -> None:
    ids, probabilities = Sampler(SamplingOptions(temperature=0.5)).candidates(LOGITS)
    expected = PROBABILITIES[ids] ** 2
    assert probabilities == pytest.approx(expected / expected.sum(), rel=1e-5)


def test_top_k_keeps_the_most_likely() -> None:
    assert kept(top_k=2) == pytest.approx({1: 4 / 7, 2: 3 / 7}, rel=1e-5)


def test_top_p_keeps_until_the_share_is_reached() -> None:
    assert set(kept(top_p=0.65)) == {1, 2}
    assert set(kept(top_p=0.75)) == {1, 2, 4}
    assert set(kept(top_p=1e-9)) == {1}


def test_min_p_keeps_a_share_of_the_most_likely() -> None:
    assert set(kept(min_p=0.6)) == {1, 2}
    assert set(kept(min_p=1.0)) == {1}


def test_filters_follow_one_another() -> None:
    assert set(kept(top_k=3, top_p=0.7)) == {1, 2}  # of 4/9, 3/9, 2/9


def test_choices_follow_the_probabilities() -> None:
    sampler = Sampler(SamplingOptions(temperature=1.0, seed=7))
    counts = np.bincount([sampler.choose(LOGITS) for _ in range(4000)], minlength=5)
    assert counts / 4000 == pytest.approx(PROBABILITIES, abs=0.03)


def test_seed_repeats_the_choices() -> None:
    def choices(seed: int) -> list[int]:
        sampler = Sampler(SamplingOptions(temperature=1.0, seed=seed))
        return [sampler.choose(LOGITS) for _ in range(30)]

    assert choices(1) == choices(1) != choices(2)


def test_penalty_lowers_tokens_seen_and_leaves_the_logits_alone() -> None:
    logits = np.array([2.0, 3.0, -1.0], np.float32)
    before = logits.copy()
    sampler = Sampler(SamplingOptions(repetition_penalty=2.0))
    assert sampler.choose(logits, seen=[1, 1]) == 0
    assert np.array_equal(logits, before)
    sampler = Sampler(SamplingOptions(temperature=1.0, repetition_penalty=2.0, top_k=3))
    assert sampler.choose(np.array([-1.0, -1.9], np.float32), seen=[0]) in (0, 1)
    assert (
        Sampler(SamplingOptions(repetition_penalty=2.0)).choose(
            np.array([-1.0, -1.9], np.float32), seen=[0]
        )
        == 1
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature must be at least 0, not -0.1"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"top_k": 0}, "top_k must be at least 1, not 0"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, not 0.0"),
        ({"min_p": 1.5}, "min_p must be from 0 to 1, not 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, not 0.0"),
        ({"seed": -1}, "seed must be at least 0, not -1"),
    ],
)
def test_values_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}$"):
        SamplingOptions(**options)
