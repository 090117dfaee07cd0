"""Placement of a general task graph: HEFT, then local improvement.

A plan is an order of the tasks and a device for each; a device takes its tasks in that order, each
as soon as its inputs are there. Every schedule worth having is one of these plans (they are the
semi-active schedules), so the search has only orders and devices to change.
"""

from __future__ import annotations

import bisect
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from .problem import Assignment, DagProblem, milliseconds, too_little_room

TRIALS = 200_000  # changes tried, times tasks: large graphs get fewer
MOST_TRIALS = 4_000
PATIENCE = 4  # changes without gain, times tasks, after which the plan is shaken
SHAKES = 6  # changes of a shake


@dataclass
class _Plan:
    order: list[int]
    devices: list[str]
    seconds: float


def place_dag(problem: DagProblem, *, seed: int = 0) -> Assignment:
    """Return the device of each task; never worse than the best single device with room for all.

    Parameters
    ----------
    problem
    seed
        Repeats the search.

    Raises
    ------
    PlacementError
        If the weights do not fit.
    """
    if not problem.seconds:
        return Assignment(devices=(), seconds=0.0, bound=0.0, reasons=())
    starts = [plan for plan in (_heft(problem), *_on_one_device(problem)) if plan is not None]
    if not starts:
        raise too_little_room(problem.seconds, problem.bytes_of, problem.room)
    bound = lower_bound(problem)
    plan = _improved(problem, min(starts, key=lambda plan: plan.seconds), bound, seed)
    return Assignment(
        devices=tuple(plan.devices),
        seconds=plan.seconds,
        bound=bound,
        reasons=tuple(_reasons(problem, plan)),
    )


def lower_bound(problem: DagProblem) -> float:
    """Return seconds that no plan can beat: the critical path, or all work spread evenly."""
    least = [min(here.values()) for here in problem.seconds]
    return max(max(_tails(problem, least, [0.0] * len(least))), sum(least) / len(problem.devices))


def makespan(problem: DagProblem, order: Sequence[int], devices: Sequence[str]) -> float:
    """Return the finish time of the last task."""
    free: dict[str, float] = dict.fromkeys(devices, 0.0)
    ends = [0.0] * len(order)
    transfer = problem.transfer
    for task in order:
        on = devices[task]
        start = free[on]
        for source in problem.inputs[task]:
            arrival = ends[source]
            if devices[source] != on:
                arrival += transfer(devices[source], on, source)
            start = max(start, arrival)
        free[on] = ends[task] = start + problem.seconds[task][on]
    return max(ends)


def _tails(
    problem: DagProblem, seconds: Sequence[float], transfers: Sequence[float]
) -> list[float]:
    """Return the longest way from the start of each task to the end of the graph, in seconds."""
    after = [0.0] * len(seconds)
    tails = [0.0] * len(seconds)
    for task in reversed(range(len(seconds))):
        tails[task] = seconds[task] + after[task]
        for source in problem.inputs[task]:
            after[source] = max(after[source], transfers[source] + tails[task])
    return tails


def _heft(problem: DagProblem) -> _Plan | None:
    """Return HEFT's plan: by upward rank, each task where it finishes first, in gaps if it fits.

    None if a task finds no room.
    """
    mean = [sum(here.values()) / len(here) for here in problem.seconds]
    devices = problem.devices
    pairs = [(a, b) for a in devices for b in devices if a != b]
    moves = [
        sum(problem.transfer(a, b, task) for a, b in pairs) / max(1, len(devices) ** 2)
        for task in range(len(mean))
    ]
    ranks = _tails(problem, mean, moves)
    spans: dict[str, list[tuple[float, float]]] = {device: [] for device in devices}
    on: list[str] = [""] * len(mean)
    starts, ends = [0.0] * len(mean), [0.0] * len(mean)
    used: Counter[str] = Counter()
    for task in sorted(range(len(mean)), key=lambda task: (-ranks[task], task)):
        options = []
        for device, seconds in problem.seconds[task].items():
            held = used[device] + problem.bytes_of(task, device)
            if held > problem.room.get(device, held):
                continue
            ready = max(
                (
                    ends[source] + _move(problem, on[source], device, source)
                    for source in problem.inputs[task]
                ),
                default=0.0,
            )
            options.append((_gap(spans[device], ready, seconds) + seconds, seconds, device))
        if not options:
            return None
        end, seconds, device = min(options)
        on[task], starts[task], ends[task] = device, end - seconds, end
        used[device] += problem.bytes_of(task, device)
        bisect.insort(spans[device], (end - seconds, end))
    order = sorted(range(len(mean)), key=lambda task: (starts[task], -ranks[task], task))
    return _Plan(order, on, makespan(problem, order, on))


def _move(problem: DagProblem, source: str, target: str, task: int) -> float:
    return 0.0 if source == target else problem.transfer(source, target, task)


def _gap(spans: Sequence[tuple[float, float]], ready: float, seconds: float) -> float:
    """Return when a device is first free for so long."""
    start = ready
    for begin, end in spans:
        if start + seconds <= begin:
            break
        start = max(start, end)
    return start


def _on_one_device(problem: DagProblem) -> list[_Plan]:
    order = list(range(len(problem.seconds)))
    plans = []
    for device in problem.devices:
        if all(device in here for here in problem.seconds):
            on = [device] * len(order)
            if _fits(problem, on):
                plans.append(_Plan(order, on, makespan(problem, order, on)))
    return plans


def _fits(problem: DagProblem, devices: Sequence[str]) -> bool:
    used: Counter[str] = Counter()
    for task, device in enumerate(devices):
        used[device] += problem.bytes_of(task, device)
    return all(size <= problem.room.get(device, size) for device, size in used.items())


def _improved(problem: DagProblem, start: _Plan, bound: float, seed: int) -> _Plan:
    """Return the best plan of an iterated local search: change, keep what is no worse, shake."""
    rng = random.Random(seed)
    best = now = start
    stale = 0
    for _ in range(min(MOST_TRIALS, TRIALS // len(start.order))):
        if best.seconds <= bound:
            break
        shaken = stale > PATIENCE * len(start.order)
        changed = _changed(problem, best if shaken else now, SHAKES if shaken else 1, rng)
        stale += 1
        if changed is None:
            continue
        if shaken or changed.seconds <= now.seconds:
            if shaken or changed.seconds < now.seconds:
                stale = 0
            now = changed
        if now.seconds < best.seconds:
            best = now
    return best


def _changed(problem: DagProblem, plan: _Plan, changes: int, rng: random.Random) -> _Plan | None:
    """Return a plan with some tasks elsewhere, in the order, on the devices or both.

    None if it does not fit.
    """
    order, devices = list(plan.order), list(plan.devices)
    for _ in range(changes):
        task = rng.randrange(len(order))
        kind = rng.random()
        if kind < 0.7:
            devices[task] = rng.choice(list(problem.seconds[task]))
        if kind > 0.4:
            _reorder(problem, order, task, rng)
    if problem.room and not _fits(problem, devices):
        return None
    return _Plan(order, devices, makespan(problem, order, devices))


def _reorder(problem: DagProblem, order: list[int], task: int, rng: random.Random) -> None:
    """Move a task to another place in the order, after what it reads and before its readers."""
    at = order.index(task)
    inputs = problem.inputs[task]
    first = last = at
    while first > 0 and order[first - 1] not in inputs:
        first -= 1
    while last + 1 < len(order) and task not in problem.inputs[order[last + 1]]:
        last += 1
    order.insert(rng.randint(first, last), order.pop(at))


def _reasons(problem: DagProblem, plan: _Plan) -> list[str]:
    """Return for each task its figures, and what keeps it from where it would be faster."""
    used: Counter[str] = Counter()
    for task, device in enumerate(plan.devices):
        used[device] += problem.bytes_of(task, device)
    reasons = []
    for task, (here, on) in enumerate(zip(problem.seconds, plan.devices, strict=True)):
        if len(here) == 1:
            reasons.append("the only device for it")
            continue
        parts = [f"least time of the graph: {milliseconds(here)}"]
        for other in sorted(here):
            if other == on or here[other] >= here[on]:
                continue
            held = used[other] + problem.bytes_of(task, other)
            if held > problem.room.get(other, math.inf):
                parts.append(f"no room on {other}")
                continue
            elsewhere = [*plan.devices[:task], other, *plan.devices[task + 1 :]]
            late = makespan(problem, plan.order, elsewhere) - plan.seconds
            parts.append(f"on {other} the end would be {1e3 * late:.2f} ms later")
        reasons.append(", ".join(parts))
    return reasons
