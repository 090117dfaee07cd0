"""Residency: within its room always, every weight there before its use, none read in vain."""

from __future__ import annotations

from collections import Counter, deque

import numpy as np
import pytest

from ciuic.errors import OutOfMemory
from ciuic.memory.residency import Cycle, Residency, Use, cycle_seconds, plan_residency


def random_uses(rng: np.random.Generator) -> list[Use]:
    count = int(rng.integers(1, 60))
    sizes = (
        rng.choice([10, 64, 100, 1000], count)
        if rng.random() < 0.7
        else rng.integers(1, 999, count)
    )
    return [
        Use(
            key=index,
            nbytes=int(size),
            streams=bool(rng.random() < 0.9),
            seconds=float(rng.random()),
        )
        for index, size in enumerate(sizes)
    ]


def planned(uses: list[Use], room: int, link: float = 100.0) -> Residency:
    return plan_residency(uses, room, tier="device", link_bytes_per_second=link)


@pytest.mark.parametrize("seed", range(200))
def test_never_over_the_room_and_each_weight_somewhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    uses = random_uses(rng)
    total = sum(use.nbytes for use in uses)
    room = int(rng.integers(0, total + 10))
    try:
        found = planned(uses, room)
    except OutOfMemory as error:
        refused = error
    else:
        check(found, uses, room)
        return
    assert refused.available == room < refused.wanted
    check(planned(uses, refused.wanted), uses, refused.wanted)  # what is said to fit does


def check(found: Residency, uses: list[Use], room: int) -> None:
    total = sum(use.nbytes for use in uses)
    assert found.used_bytes <= room
    assert sorted([*found.pinned, *found.streamed]) == list(range(len(uses)))
    assert list(found.streamed) == sorted(found.streamed)
    assert all(uses[key].streams for key in found.streamed)
    sizes = {use.key: use.nbytes for use in uses}
    assert found.pinned_bytes == sum(sizes[key] for key in found.pinned)
    assert found.streamed_bytes == sum(sizes[key] for key in found.streamed)
    if total <= room:
        assert not found.streamed
        assert found.seconds == pytest.approx(sum(use.seconds for use in uses))
    else:
        assert 2 <= found.slots <= 4
        assert found.slot_bytes == max(sizes[key] for key in found.streamed)
        # Nothing that streams would have fitted beside the pinned ones.
        assert min(sizes[key] for key in found.streamed) > room - found.used_bytes


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0])
def test_cycle_takes_the_larger_of_computation_and_transfer(share: float, ratio: float) -> None:
    """For equal layers of seven matrices, whatever the link's speed (`ratio` for all weights)."""
    sizes = [9, 3, 3, 9, 24, 24, 24]
    uses = [
        Use(key=(layer, role), nbytes=size * 1000, seconds=size * 1e-3)
        for layer in range(24)
        for role, size in enumerate(sizes)
    ]
    total = sum(use.nbytes for use in uses)
    seconds = sum(use.seconds for use in uses)
    link = total / (ratio * seconds)
    found = plan_residency(uses, int(share * total), tier="t", link_bytes_per_second=link)
    bound = max(seconds, found.streamed_bytes / link)
    assert bound <= found.seconds * 1.0001
    assert bound / found.seconds > 0.97
    assert found.streamed_bytes < (1.08 - share) * total  # slots take some of the room


def test_time_without_slots_for_both_is_their_sum() -> None:
    uses = [Use(key=index, nbytes=10, seconds=1.0) for index in range(6)]
    everything = frozenset(range(6))
    assert cycle_seconds(uses, everything, 1, 10.0) == pytest.approx(12.0)
    assert cycle_seconds(uses, everything, 2, 10.0) == pytest.approx(6.0)
    assert cycle_seconds(uses, frozenset(), 0, 10.0) == pytest.approx(6.0)


def test_too_little_room_is_told_with_what_would_do() -> None:
    uses = [Use(key="norm", nbytes=5, streams=False), *(Use(key=i, nbytes=30) for i in range(4))]
    with pytest.raises(OutOfMemory, match=r"^fpga: 65 bytes wanted, 64 of 64 bytes available$"):
        plan_residency(uses, 64, tier="fpga")
    assert plan_residency(uses, 65, tier="fpga").streamed == (0, 1, 2, 3)


class Loader:
    """Does what a `Cycle` says, in random turns, and notes every step."""

    def __init__(self, order: list[int], slots: int) -> None:
        self.cycle = Cycle(order)
        self.free = slots
        self.loading: deque[int] = deque()
        self.there: list[int] = []
        self.loads: Counter[int] = Counter()

    def load(self) -> None:
        """Begin what can begin, if there is a slot."""
        if self.free and (key := self.cycle.next()) is not None:
            self._begin(key)

    def arrive(self) -> None:
        if self.loading:
            self.there.append(self.loading.popleft())

    def use(self, key: int) -> None:
        ahead, dropped = self.cycle.use(key)
        for gone in dropped:
            (self.there if gone in self.there else self.loading).remove(gone)
            self.free += 1
        if not ahead:
            self._begin(key)
        while key not in self.there:
            assert self.loading, "a weight is used that was never loaded"
            self.arrive()
        self.there.remove(key)
        self.free += 1

    def _begin(self, key: int) -> None:
        assert self.free, "more weights are loaded than there are slots"
        assert key not in self.loading
        assert key not in self.there
        self.free -= 1
        self.loads[key] += 1
        self.loading.append(key)


@pytest.mark.parametrize("seed", range(50))
def test_each_weight_is_read_once_a_cycle(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order, slots, cycles = list(range(int(rng.integers(1, 12)))), int(rng.integers(2, 5)), 5
    loader = Loader(order, slots)
    for _ in range(cycles):
        for key in order:
            for _ in range(int(rng.integers(0, 4))):
                loader.load() if rng.random() < 0.5 else loader.arrive()
            loader.use(key)
    ahead = Counter({*loader.there, *loader.loading})
    assert loader.loads - ahead == Counter(dict.fromkeys(order, cycles))


@pytest.mark.parametrize("seed", range(50))
def test_any_order_of_use_is_served(seed: int) -> None:
    rng = np.random.default_rng(seed)
    order = list(range(int(rng.integers(1, 8))))
    loader = Loader(order, int(rng.integers(2, 5)))
    for _ in range(60):
        for _ in range(int(rng.integers(0, 4))):
            loader.load() if rng.random() < 0.5 else loader.arrive()
        loader.use(int(rng.integers(0, len(order) + 2)))  # some are not in the order


def test_a_token_given_up_half_way_costs_what_was_ahead_of_it() -> None:
    cycle = Cycle("abcdef")
    assert [cycle.next() for _ in range(3)] == ["a", "b", "c"]
    assert cycle.use("a") == (True, [])
    assert cycle.use("a") == (False, ["b", "c"])
    assert cycle.next() == "b"
    assert cycle.use("b") == (True, [])
    assert [cycle.next(), cycle.next()] == ["c", "d"]
    assert cycle.use("d") == (True, ["c"])
