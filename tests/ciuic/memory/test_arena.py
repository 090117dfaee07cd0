"""Arena: arrays that are alive together never overlap, and little is wasted."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ciuic.memory.arena import ALIGNMENT, Lifetime, most_alive, plan_arena


def random_lifetimes(rng: np.random.Generator) -> list[Lifetime]:
    found = []
    for _ in range(int(rng.integers(0, 60))):
        first = int(rng.integers(0, 80))
        last = first + int(rng.integers(0, 12))
        found.append(Lifetime(nbytes=int(rng.integers(0, 5000)), first=first, last=last))
    return found


@pytest.mark.parametrize("seed", range(200))
def test_arrays_alive_together_do_not_overlap(seed: int) -> None:
    lifetimes = random_lifetimes(np.random.default_rng(seed))
    arena = plan_arena(lifetimes)
    for (a, start_a), (b, start_b) in combinations(zip(lifetimes, arena.offsets, strict=True), 2):
        together = a.first <= b.last and b.first <= a.last
        apart = start_a + a.nbytes <= start_b or start_b + b.nbytes <= start_a
        assert apart or not together or not a.nbytes or not b.nbytes
    assert all(offset % ALIGNMENT == 0 for offset in arena.offsets)
    ends = [o + one.nbytes for o, one in zip(arena.offsets, lifetimes, strict=True)]
    assert max(ends, default=0) <= arena.nbytes
    assert most_alive(lifetimes) <= arena.nbytes <= 1.5 * most_alive(lifetimes)


def test_a_chain_takes_two_places() -> None:
    chain = [Lifetime(nbytes=640, first=step, last=step + 1) for step in range(50)]
    assert plan_arena(chain).nbytes == 2 * 640


def test_the_tightest_gap_is_taken() -> None:
    walls = [Lifetime(nbytes=64 * size, first=0, last=9) for size in (30, 20, 16)]
    gaps = [Lifetime(nbytes=64 * size, first=0, last=0) for size in (25, 18)]  # free afterwards
    small = Lifetime(nbytes=64 * 15, first=5, last=6)
    arena = plan_arena([*walls, *gaps, small])
    assert arena.offsets[-1] == arena.offsets[4]
    assert arena.nbytes == 64 * 109


def test_nothing_takes_nothing() -> None:
    assert plan_arena([]).nbytes == 0
    assert plan_arena([Lifetime(nbytes=0, first=3, last=3)]).nbytes == 0


@pytest.mark.parametrize(
    "wrong", [Lifetime(nbytes=-1, first=0, last=0), Lifetime(nbytes=1, first=2, last=1)]
)
def test_impossible_lifetimes_are_refused(wrong: Lifetime) -> None:
    with pytest.raises(ValueError, match=r"^a lifetime must have bytes and an end after its start"):
        plan_arena([wrong])
