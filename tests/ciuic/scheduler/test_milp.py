"""place_split: columns and experts, against trying everything."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from ciuic.errors import PlacementError
from ciuic.scheduler import Part, SplitProblem, place_split
from ciuic.scheduler.split import Share, on_one_device

pytest.importorskip("scipy", reason="needs scipy: python -m pip install 'ciuic[plan]'")


def link(seconds: float) -> object:
    return lambda source, target, _index: 0.0 if source == target else seconds


def random_problem(rng: np.random.Generator) -> SplitProblem:
    """Return two or three stages of one or two parts with up to three pieces."""
    names = ("cpu", "a", "b")[: rng.integers(2, 4)]

    def part() -> Part:
        on = [d for d in names if d == "cpu" or rng.random() < 0.9]
        return Part(
            seconds={d: float(rng.exponential() + 0.05) for d in on},
            nbytes={d: int(rng.integers(1, 100)) for d in on},
            count=int(rng.integers(1, 4)),
        )

    stages = [[part() for _ in range(rng.integers(1, 3))] for _ in range(rng.choice([2, 2, 3]))]
    whole = sum(part.count * part.nbytes["cpu"] for parts in stages for part in parts)
    ways = {
        (a, b): 0.0 if a == b else float(rng.exponential() * 0.3)
        for a, b in itertools.product(names, names)
    }
    return SplitProblem(
        stages=stages,
        transfer=lambda source, target, _index: ways[source, target],
        room={d: int(whole * rng.uniform(0.2, 0.9)) for d in names},
    )


def every_share(part: Part) -> list[Share]:
    counts = itertools.product(range(part.count + 1), repeat=len(part.seconds))
    return [
        dict(zip(part.seconds, some, strict=True)) for some in counts if sum(some) == part.count
    ]


def every_split(problem: SplitProblem) -> Iterator[Sequence[Sequence[Share]]]:
    stages = [list(itertools.product(*map(every_share, parts))) for parts in problem.stages]
    return itertools.product(*stages)


@pytest.mark.parametrize("seed", range(40))
def test_small_problems_are_the_optimum(seed: int) -> None:
    problem = random_problem(np.random.default_rng(seed))
    optimum = min(
        (problem.homes(shares)[0] for shares in every_split(problem) if problem.fits(shares)),
        default=math.inf,
    )
    if math.isinf(optimum):
        with pytest.raises(PlacementError, match=r"^no way was found to fit the weights"):
            place_split(problem)
        return
    found = place_split(problem)
    assert problem.fits(found.shares)
    assert found.seconds == pytest.approx(optimum, rel=2e-3), seed
    assert found.bound <= optimum * (1 + 1e-6)


def test_columns_are_split_by_speed() -> None:
    columns = Part(seconds={"cpu": 3e-3, "gpu": 1e-3}, count=8)
    problem = SplitProblem(stages=[[columns]], transfer=link(0.0))
    found = place_split(problem)
    assert found.shares == (({"cpu": 2, "gpu": 6},),)
    assert found.seconds == pytest.approx(6e-3)
    assert found.reasons == ("cpu 2 of 8 in 6.00 ms, gpu 6 of 8 in 6.00 ms",)


def test_device_stays_idle_where_the_way_costs_more() -> None:
    columns = Part(seconds={"cpu": 1e-3, "gpu": 1e-3}, count=2)
    found = place_split(SplitProblem(stages=[[columns]], transfer=link(1e-3)))
    assert found.shares == (({"cpu": 2},),)
    assert found.reasons == ("cpu 2 of 2 in 2.00 ms, gpu would not pay for its transfers",)


def test_columns_are_split_where_no_device_has_room_for_all() -> None:
    columns = Part(seconds={"a": 1e-3, "b": 1e-3}, nbytes={"a": 10, "b": 10}, count=4)
    problem = SplitProblem(
        stages=[[columns]], transfer=link(0.0), room={"a": 15, "b": 30}, home="b"
    )
    assert place_split(problem).shares == (({"a": 1, "b": 3},),)


def test_busy_experts_get_the_fast_memory() -> None:
    rng = np.random.default_rng(0)
    often = rng.dirichlet(np.full(40, 0.5))
    experts = [
        Part(seconds={"cpu": 1e-1 * share, "gpu": 1e-2 * share}, nbytes={"cpu": 10, "gpu": 10})
        for share in often
    ]
    problem = SplitProblem(stages=[experts] * 2, transfer=link(1e-4), room={"gpu": 400})
    found = place_split(problem)
    assert problem.fits(found.shares)
    for stage in found.shares:
        assert all(sum(share.values()) == 1 for share in stage)
        on_gpu = [often[i] for i, share in enumerate(stage) if "gpu" in share]
        assert sum(on_gpu) > len(on_gpu) / 40  # busier than the mean
    assert found.seconds < 0.5 * min(problem.homes(one)[0] for one in on_one_device(problem))


def test_home_moves_to_where_the_work_is() -> None:
    whole = Part(seconds={"cpu": 1.0, "gpu": 1e-3})
    found = place_split(SplitProblem(stages=[[whole]] * 3, transfer=link(1e-2)))
    assert found.homes == ("gpu", "gpu", "cpu")
    assert found.seconds == pytest.approx(2e-2 + 3e-3)


@pytest.mark.parametrize(
    "stages", [[[]], [[Part(seconds={})]], [[Part(seconds={"a": 1}, count=0)]]]
)
def test_stages_without_work_are_told(stages: list[list[Part]]) -> None:
    with pytest.raises(PlacementError, match=r"^stage 0 has no work, or no device for it$"):
        SplitProblem(stages=stages, transfer=link(0.0))
