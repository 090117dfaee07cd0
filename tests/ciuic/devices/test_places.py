"""Places in an arena: never shared while taken, aligned, and few bytes more than need be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from ciuic.devices.places import GROWTH_BYTES, Places, grown


@pytest.mark.parametrize("seed", range(100))
def test_places_that_are_taken_do_not_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    alignment = int(rng.choice([1, 64, 128, 512]))
    places = Places(alignment)
    taken: dict[int, int] = {}
    top = most = 0
    for _ in range(300):
        if taken and rng.random() < 0.5:
            offset = int(rng.choice(list(taken)))
            places.give(offset)
            del taken[offset]
        else:
            nbytes = int(rng.integers(0, 5000))
            between = rng.integers(0, 3000, rng.integers(0, 4)).tolist()
            offset, parts, end = places.take_for_task(nbytes, between)
            assert offset not in taken
            taken[offset] = nbytes
            ranges = [*taken.items(), *zip(parts, between, strict=True)]
            for (start, size), (after, _) in pairwise(sorted(ranges)):
                assert start + size <= after, f"seed {seed}"
            assert all(start % alignment == 0 for start, _ in ranges)
            assert end >= max(start + size for start, size in [(offset, nbytes), *ranges[-1:]])
            top = max(top, end)
            live = sum(map(places.size, taken.values())) + sum(map(places.size, between))
            most = max(most, live)
        assert len(places) == len(taken)
    assert most <= top <= 1.6 * most, f"seed {seed}"


def test_a_chain_takes_two_places() -> None:
    places = Places(64)
    last, ends = places.take(640), []
    for _ in range(50):
        following, _, end = places.take_for_task(640, [])
        places.give(last)
        last = following
        ends.append(end)
    assert max(ends) == 2 * 640


def test_values_between_are_the_next_tasks_too() -> None:
    places = Places(64)
    first, between, end = places.take_for_task(64, [100, 1])
    assert (first, between, end) == (0, [64, 192], 256)
    assert places.take(64) == 64


@pytest.mark.parametrize("offset", [64, 1, -64])
def test_what_is_not_taken_cannot_be_given_back(offset: int) -> None:
    places = Places(64)
    places.take(10)
    with pytest.raises(ValueError, match=rf"^offset must be that of a place .*, not {offset}$"):
        places.give(offset)


def test_arenas_grow_in_steps_of_a_sixteenth_at_least() -> None:
    assert grown(1) == GROWTH_BYTES
    for end in np.random.default_rng(1).integers(1, 1 << 40, 200).tolist():
        assert end <= grown(end) <= end + max(GROWTH_BYTES, end // 8)
        assert grown(grown(end)) == grown(end)
