"""Stages of a pipeline: against every possibility, on random chains."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations

import numpy as np
import pytest

from ciuic.errors import PlacementError
from ciuic.scheduler.stages import Stage, best_stages

DEVICES = ("cpu", "fpga", "gpu")


def no_transfer(_source: str, _target: str, _index: int) -> float:
    return 0.0


def every_cut(count: int, parts: int) -> Iterator[list[int]]:
    if parts == 1:
        yield [count]
        return
    for first in range(1, count - parts + 2):
        for rest in every_cut(count - first, parts - 1):
            yield [first, *rest]


def by_brute_force(costs: list[dict[str, float]], sizes, room, transfer) -> float:  # type: ignore[no-untyped-def]
    best = float("inf")
    for parts in range(1, len(DEVICES) + 1):
        for order in permutations(DEVICES, parts):
            for cut in every_cut(len(costs), parts) if parts <= len(costs) else ():
                start, source, slowest = 0, "cpu", 0.0
                for device, length in zip(order, cut, strict=True):
                    layers = range(start, start + length)
                    if sum(sizes[i][device] for i in layers) > room[device]:
                        slowest = float("inf")
                    seconds = sum(costs[i][device] for i in layers)
                    seconds += transfer(source, device, start)
                    start, source = start + length, device
                    if start == len(costs):
                        seconds += transfer(device, "cpu", start)
                    slowest = max(slowest, seconds)
                best = min(best, slowest)
    return best


@pytest.mark.parametrize("seed", range(60))
def test_no_other_stages_are_faster(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 7))
    costs = [{d: float(rng.uniform(0.1, 2)) for d in DEVICES} for _ in range(count)]
    sizes = [{d: int(rng.integers(1, 10)) for d in DEVICES} for _ in range(count)]
    room = {d: int(rng.integers(5, 40)) for d in DEVICES} | {"cpu": 1000}
    links = {pair: float(rng.uniform(0, 0.5)) for pair in permutations(DEVICES, 2)}

    def transfer(source: str, target: str, _index: int) -> float:
        return links.get((source, target), 0.0)

    stages = best_stages(costs, transfer, sizes, room)
    slowest = max(stage.seconds for stage in stages)
    assert slowest == pytest.approx(by_brute_force(costs, sizes, room, transfer))
    assert [stage.start for stage in stages] == [0, *(stage.stop for stage in stages[:-1])]
    assert stages[-1].stop == count
    for stage in stages:
        assert stage.nbytes <= room[stage.device]


def test_two_equal_devices_take_half_each() -> None:
    costs = [{"cpu": 1.0, "fpga": 1.0}] * 10
    sizes = [{"cpu": 1, "fpga": 1}] * 10
    room = {"cpu": 100, "fpga": 100}
    stages = best_stages(costs, no_transfer, sizes, room)
    assert sorted(stage.device for stage in stages) == ["cpu", "fpga"]
    assert [stage.seconds for stage in stages] == [5.0, 5.0]


def test_a_device_that_does_not_pay_stays_idle() -> None:
    costs = [{"cpu": 1.0, "fpga": 100.0}] * 4
    sizes = [{"cpu": 1, "fpga": 1}] * 4
    stages = best_stages(costs, no_transfer, sizes, {"cpu": 100, "fpga": 100})
    assert stages == [Stage(device="cpu", start=0, stop=4, seconds=4.0, nbytes=4)]


def test_a_full_device_takes_fewer_layers() -> None:
    costs = [{"cpu": 3.0, "fpga": 1.0}] * 8
    sizes = [{"cpu": 10, "fpga": 10}] * 8
    stages = best_stages(costs, no_transfer, sizes, {"cpu": 1000, "fpga": 25})
    assert {stage.device: stage.stop - stage.start for stage in stages} == {"cpu": 6, "fpga": 2}


def test_of_equals_the_one_with_less_device_memory() -> None:
    costs = [{"cpu": 1.0, "gpu": 1.0}]
    stages = best_stages(costs, no_transfer, [{"cpu": 5, "gpu": 5}], {"cpu": 9, "gpu": 9})
    assert [stage.device for stage in stages] == ["cpu"]


def test_layers_that_fit_nowhere_are_refused() -> None:
    with pytest.raises(PlacementError, match="no stages hold the chain: cpu has 3 bytes of 8"):
        best_stages([{"cpu": 1.0}] * 2, no_transfer, [{"cpu": 4}] * 2, {"cpu": 3})


def test_sixty_layers_and_four_devices_are_quick() -> None:
    names = ("cpu", "a", "b", "c")
    rng = np.random.default_rng(1)
    costs = [{d: float(rng.uniform(1, 3)) for d in names} for _ in range(61)]
    stages = best_stages(
        costs, no_transfer, [dict.fromkeys(names, 1)] * 61, dict.fromkeys(names, 99)
    )
    assert len(stages) == 4
