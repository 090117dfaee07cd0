"""place_dag: against trying everything, and what it promises for graphs of any size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ciuic.errors import PlacementError
from ciuic.scheduler import DagProblem, place_dag
from ciuic.scheduler.dag import lower_bound, makespan
from ciuic.scheduler.exhaustive import dag_optimum, random_dag


def still(_source: str, _target: str, _task: int) -> float:
    return 0.0


def dag(seconds: Any, inputs: Any, **rest: Any) -> DagProblem:
    return DagProblem(seconds=seconds, inputs=inputs, transfer=rest.pop("transfer", still), **rest)


@pytest.mark.parametrize("seed", range(60))
def test_small_graphs_are_near_the_optimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_dag(rng, tasks=int(rng.integers(1, 7)), devices=int(rng.integers(1, 4)))
    found, optimum = place_dag(problem), dag_optimum(problem)
    assert lower_bound(problem) <= optimum * (1 + 1e-9)
    assert optimum * (1 - 1e-9) <= found.seconds <= 1.05 * optimum, seed


@pytest.mark.parametrize("seed", range(6))
def test_larger_graphs_fit_and_are_never_worse_than_the_host_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    problem = random_dag(rng, tasks=int(rng.integers(20, 60)), devices=4)
    found = place_dag(problem)
    used = dict.fromkeys(problem.devices, 0)
    for task, on in enumerate(found.devices):
        assert on in problem.seconds[task]
        used[on] += problem.bytes_of(task, on)
    assert all(size <= problem.room[on] for on, size in used.items())
    host = sum(here["cpu"] for here in problem.seconds)
    assert found.bound <= found.seconds <= host * (1 + 1e-9)


def test_schedule_by_hand() -> None:
    # 0 -> 1, 0 -> 2, both -> 3; the result of 0 takes 2 seconds to the other device.
    problem = dag(
        [{"a": 1.0, "b": 1.0}] * 4,
        [[], [0], [0], [1, 2]],
        transfer=lambda source, target, task: 2.0 if task == 0 else 0.5,
    )
    assert makespan(problem, [0, 1, 2, 3], ["a", "a", "a", "a"]) == 4.0
    assert makespan(problem, [0, 1, 2, 3], ["a", "a", "b", "a"]) == 5.5
    assert place_dag(problem).devices in (("a",) * 4, ("b",) * 4)


def test_branches_go_to_different_devices() -> None:
    found = place_dag(dag([{"a": 1.0, "b": 1.0}] * 2, [[], []]))
    assert sorted(found.devices) == ["a", "b"]
    assert found.exact


def test_reasons_say_what_keeps_a_task() -> None:
    seconds = [{"a": 0.003, "b": 0.001}, {"a": 0.003, "b": 0.001}, {"a": 0.0}]
    full = place_dag(dag(seconds, [[], [0], [1]], nbytes=[{"a": 1, "b": 10}] * 3, room={"b": 10}))
    figures = "least time of the graph: a 3.00 ms, b 1.00 ms"
    assert sorted(full.reasons) == [
        figures,
        f"{figures}, no room on b",
        "the only device for it",
    ]
    far = place_dag(dag([seconds[0]], [[]], transfer=still))
    assert far.reasons == (figures,)


@pytest.mark.parametrize(
    ("seconds", "inputs", "message"),
    [
        ([{"a": 1.0}, {}], [[], []], "task 1 has no device that can run it"),
        ([{"a": 1.0}], [[0]], r"task 0 must read earlier tasks, not \[0\]"),
    ],
)
def test_bad_graphs_are_told(seconds: Any, inputs: Any, message: str) -> None:
    with pytest.raises(PlacementError, match=f"^{message}$"):
        dag(seconds, inputs)


def test_what_does_not_fit_is_told() -> None:
    problem = dag([{"a": 1.0}] * 2, [[], []], nbytes=[{"a": 10}] * 2, room={"a": 15})
    with pytest.raises(PlacementError, match=r"^a must hold 20 bytes of weights, 15 are avail"):
        place_dag(problem)
