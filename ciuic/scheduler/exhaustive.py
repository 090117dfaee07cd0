"""Small random problems, and their optimum by trying everything: what placement is measured by."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .problem import HOST, ChainProblem, DagProblem

DEVICES = (HOST, "a", "b", "c")


def random_chain(
    rng: np.random.Generator, *, layers: int, devices: int, equal: bool = False
) -> ChainProblem:
    """Return a chain on some of the devices, most of which have too little room for all of it.

    Layers differ in size by orders of magnitude, and now and then a device cannot run one; or they
    are ``equal``, as those of models are.
    """
    names = DEVICES[:devices]
    seconds = _random_seconds(rng, layers, names)
    nbytes = [{d: int(10 ** rng.uniform(0, 3)) for d in here} for here in seconds]
    if equal:
        seconds, nbytes = seconds[:1] * layers, nbytes[:1] * layers
    link = _random_links(rng, names, layers + 1)
    return ChainProblem(
        seconds=seconds,
        nbytes=nbytes,
        room=_random_room(rng, nbytes, names),
        transfer=lambda source, target, index: link[source, target, index],
    )


def random_dag(rng: np.random.Generator, *, tasks: int, devices: int) -> DagProblem:
    """Return a task graph; devices, costs and caps as of `random_chain`."""
    names = DEVICES[:devices]
    seconds = _random_seconds(rng, tasks, names)
    nbytes = [{d: int(10 ** rng.uniform(0, 3)) for d in here} for here in seconds]
    link = _random_links(rng, names, tasks)
    density = rng.uniform(0.1, 0.6)
    return DagProblem(
        seconds=seconds,
        inputs=[[s for s in range(task) if rng.random() < density] for task in range(tasks)],
        nbytes=nbytes,
        room=_random_room(rng, nbytes, names),
        transfer=lambda source, target, index: link[source, target, index],
    )


def _random_seconds(
    rng: np.random.Generator, count: int, names: tuple[str, ...]
) -> list[dict[str, float]]:
    return [
        {d: float(rng.exponential()) for d in names if d == HOST or rng.random() < 0.9}
        for _ in range(count)
    ]


def _random_links(
    rng: np.random.Generator, names: tuple[str, ...], count: int
) -> dict[tuple[str, str, int], float]:
    return {
        (a, b, index): 0.0 if a == b else float(rng.exponential() * rng.choice([0.05, 0.5]))
        for a, b, index in itertools.product(names, names, range(count))
    }


def _random_room(
    rng: np.random.Generator, nbytes: list[dict[str, int]], names: tuple[str, ...]
) -> dict[str, int]:
    whole = {d: sum(here.get(d, 0) for here in nbytes) for d in names}
    return {d: int(whole[d] * (1 if d == HOST else rng.uniform(0, 1.2))) for d in names}


def chain_optimum(problem: ChainProblem) -> float:
    """Return the least seconds of a chain; infinite if the layers do not fit."""
    paths = itertools.product(*problem.seconds)
    return min((problem.time(path) for path in paths if problem.fits(path)), default=math.inf)


def dag_optimum(problem: DagProblem) -> float:
    """Return the least makespan of a task graph; infinite if the tasks do not fit.

    Every order of the tasks and every device for each, in depth-first search. A branch ends early
    only where the tasks begun already end no sooner than a complete schedule that was found.
    """
    n = len(problem.seconds)
    best = math.inf

    def extend(ends: dict[int, float], on: dict[int, str], free: dict[str, float]) -> None:
        nonlocal best
        if len(ends) == n:
            best = min(best, max(ends.values()))
            return
        for task in range(n):
            if task in ends or any(source not in ends for source in problem.inputs[task]):
                continue
            for device, seconds in problem.seconds[task].items():
                held = problem.bytes_of(task, device) + sum(
                    problem.bytes_of(other, device)
                    for other, where in on.items()
                    if where == device
                )
                if held > problem.room.get(device, held):
                    continue
                ready = free.get(device, 0.0)
                for source in problem.inputs[task]:
                    move = (
                        0.0
                        if on[source] == device
                        else problem.transfer(on[source], device, source)
                    )
                    ready = max(ready, ends[source] + move)
                end = ready + seconds
                if end < best:
                    extend({**ends, task: end}, {**on, task: device}, {**free, device: end})

    extend({}, {}, {})
    return best
