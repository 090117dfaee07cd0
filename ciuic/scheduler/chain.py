"""Placement of a chain: which device each layer is on such that the whole takes least.

Without caps on memory it is a shortest path through layers and devices. With caps, a search over
labels (layer, device, bytes used on each device): labels that agree in all three merge, and a label
goes no further when its time and a lower bound of the rest exceed the best chain known. The bound
is the Lagrangian relaxation of the caps: a price per byte on each device makes it a shortest path
again (Handler and Zang, "A dual algorithm for the constrained shortest path problem", Networks 10,
1980). Real models have equal layers, so that many labels merge. Should more than `LABELS` remain,
only the most promising go on, and the answer carries the bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .problem import Assignment, ChainProblem, milliseconds, too_little_room

LABELS = 40_000  # that go on from one layer to the next, of all layers together
PRICE_STEPS = 60  # of the subgradient method
SWEEPS = 5  # of local improvement
NEARBY = 64  # layers back, with which one is exchanged
SAME = 1e-12  # relative; sums in another order are no improvement


# A way to run the first layers: seconds that no chain that begins like this can beat, its seconds,
# the bytes that it uses at their prices, and its path: (path of the layers before, device).
_Label = tuple[float, float, float, "tuple[Any, str] | None"]


def place_chain(problem: ChainProblem) -> Assignment:
    """Return the device of each layer; never worse than the best single device with room for all.

    Raises
    ------
    PlacementError
        If the layers fit on no devices.
    """
    path, _ = _shortest(problem, {})
    bound = problem.time(path)
    if not problem.fits(path):
        usable = replace(problem, room=_usable(problem))
        prices, bound, known = _prices(usable, bound)
        cheapest, _ = _shortest(usable, prices)
        repaired = [_repaired(usable, path), _repaired(usable, cheapest)]
        polished = [_polished(usable, path) for path in (*repaired, known) if path is not None]
        found, bound = _search(usable, prices, _best(usable, polished), bound)
        if found is None:
            raise too_little_room(problem.seconds, problem.bytes_of, problem.room)
        path = found
    seconds = problem.time(path)
    return Assignment(
        devices=tuple(path),
        seconds=seconds,
        bound=min(bound, seconds),
        reasons=tuple(_reasons(problem, path)),
    )


def _usable(problem: ChainProblem) -> dict[str, int]:
    """Return the room that layers can fill: no more than a multiple of all of their sizes.

    Equal layers leave a rest that none fits into; without it the bound of the prices is tighter.
    """
    usable = {}
    for device, room in problem.room.items():
        layers = [index for index, here in enumerate(problem.seconds) if device in here]
        unit = math.gcd(*(problem.bytes_of(index, device) for index in layers))
        usable[device] = room - room % unit if unit else room
    return usable


def _shortest(
    problem: ChainProblem, prices: Mapping[str, float]
) -> tuple[list[str], list[dict[str, float]]]:
    """Return the cheapest path at a price per byte, and what remains after a layer on a device.

    ``remaining[i][device]`` are the priced seconds of layers i and later, and of the way home, when
    what layer i reads is on ``device``.
    """
    n = len(problem.seconds)
    sources = [[problem.home], *map(list, problem.seconds)]
    remaining: list[dict[str, float]] = [{} for _ in range(n + 1)]
    chosen: list[dict[str, str]] = [{} for _ in range(n)]
    for source in sources[n]:
        remaining[n][source] = problem.transfer(source, problem.home, n)
    for index in reversed(range(n)):
        after = {
            device: seconds
            + prices.get(device, 0.0) * problem.bytes_of(index, device)
            + remaining[index + 1][device]
            for device, seconds in problem.seconds[index].items()
        }
        for source in sources[index]:
            total, device = min(
                (problem.transfer(source, device, index) + rest, device)
                for device, rest in after.items()
            )
            remaining[index][source], chosen[index][source] = total, device
    path = [problem.home]
    for index in range(n):
        path.append(chosen[index][path[-1]])
    return path[1:], remaining


def _prices(
    problem: ChainProblem, bound: float
) -> tuple[dict[str, float], float, list[str] | None]:
    """Return prices per byte, the lower bound that they prove, and the best chain met so far.

    The subgradient method with Polyak's steps, towards the best chain that fits.
    """
    known = _best(problem, [[on] * len(problem.seconds) for on in problem.devices])
    capped = [device for device in problem.devices if _may_overflow(problem, device)]
    prices = dict.fromkeys(capped, 0.0)
    best_prices = dict(prices)
    scale = 1.0
    for _ in range(PRICE_STEPS):
        path, remaining = _shortest(problem, prices)
        rent = sum(prices[device] * problem.room[device] for device in capped)
        proven = remaining[0][problem.home] - rent
        if proven > bound:
            bound, best_prices = proven, dict(prices)
        else:
            scale *= 0.9
        known = _best(problem, [path] if known is None else [known, path])
        goal = 1.05 * bound if known is None else problem.time(known)
        used = problem.used(path)
        excess = {device: used[device] - problem.room[device] for device in capped}
        length = sum(
            size * size for device, size in excess.items() if size > 0 or prices[device] > 0
        )
        if not length or goal <= bound:
            break
        step = scale * max(goal - proven, SAME * goal) / length
        prices = {device: max(0.0, prices[device] + step * excess[device]) for device in capped}
    return best_prices, bound, known


def _may_overflow(problem: ChainProblem, device: str) -> bool:
    """Return whether a device has too little room for all layers that may be on it."""
    layers = [index for index, here in enumerate(problem.seconds) if device in here]
    wanted = sum(problem.bytes_of(index, device) for index in layers)
    return wanted > problem.room.get(device, wanted)


def _best(problem: ChainProblem, paths: Sequence[Sequence[str]]) -> list[str] | None:
    """Return the fastest of the paths that are allowed and fit."""
    allowed = [
        list(path)
        for path in paths
        if all(on in here for on, here in zip(path, problem.seconds, strict=True))
        and problem.fits(path)
    ]
    return min(allowed, key=problem.time) if allowed else None


def _repaired(problem: ChainProblem, path: Sequence[str]) -> list[str] | None:
    """Return a path that fits: layers leave full devices where a byte costs least.

    Of those that cost as much the last leaves first. None if no such path was found.
    """
    path = list(path)
    used = problem.used(path)
    for _ in path:
        full = {on for on, size in used.items() if size > problem.room.get(on, size)}
        if not full:
            return path
        options = []
        for index, on in enumerate(path):
            size = problem.bytes_of(index, on)
            for other in problem.seconds[index] if on in full and size else ():
                held = used[other] + problem.bytes_of(index, other)
                if other != on and held <= problem.room.get(other, held):
                    extra = _changed(problem, path, used, index, other)
                    _changed(problem, path, used, index, on)
                    options.append((extra / size, -index, other))
        if not options:
            break
        _, index, other = min(options)
        _changed(problem, path, used, -index, other)
    return path if problem.fits(path) else None


def _polished(problem: ChainProblem, path: Sequence[str]) -> list[str]:
    """Return a path that few moves of a layer, or exchanges with one nearby, make faster."""
    path = list(path)
    used = problem.used(path)
    for _ in range(SWEEPS):
        before = list(path)
        for index, here in enumerate(problem.seconds):
            for other in here:
                if other != path[index]:
                    _try(problem, path, used, ((index, other),))
            for second in range(max(0, index - NEARBY), index):
                on, there = path[index], path[second]
                if on != there and on in problem.seconds[second] and there in here:
                    _try(problem, path, used, ((index, there), (second, on)))
        if path == before:
            break
    return path


def _try(
    problem: ChainProblem,
    path: list[str],
    used: Counter[str],
    changes: Sequence[tuple[int, str]],
) -> None:
    """Make changes, layer by layer, that fit and make the chain faster; otherwise none."""
    grown: dict[str, int] = {}
    for index, device in changes:
        on = path[index]
        grown[on] = grown.get(on, 0) - problem.bytes_of(index, on)
        grown[device] = grown.get(device, 0) + problem.bytes_of(index, device)
    if any(
        size > 0 and used[device] + size > problem.room.get(device, math.inf)
        for device, size in grown.items()
    ):
        return
    before = [path[index] for index, _ in changes]
    extra = 0.0
    for index, device in changes:
        extra -= _around(problem, path, index)
        path[index] = device
        extra += _around(problem, path, index)
    if extra < -SAME:
        used.update(grown)
        return
    for (index, _), device in zip(changes, before, strict=True):
        path[index] = device


def _changed(
    problem: ChainProblem, path: list[str], used: Counter[str], index: int, device: str
) -> float:
    """Put a layer on a device and return the seconds that this adds to the chain."""
    before = _around(problem, path, index)
    used[path[index]] -= problem.bytes_of(index, path[index])
    used[device] += problem.bytes_of(index, device)
    path[index] = device
    return _around(problem, path, index) - before


def _around(problem: ChainProblem, path: Sequence[str], index: int) -> float:
    """Return the seconds of a layer and of the ways to it and from it."""
    on = path[index]
    source = path[index - 1] if index else problem.home
    target = path[index + 1] if index + 1 < len(path) else problem.home
    there, back = problem.transfer(source, on, index), problem.transfer(on, target, index + 1)
    return there + problem.seconds[index][on] + back


def _search(
    problem: ChainProblem, prices: Mapping[str, float], known: list[str] | None, bound: float
) -> tuple[list[str] | None, float]:
    """Return the best chain that fits, and seconds that no chain can beat."""
    _, remaining = _shortest(problem, prices)
    capped = {device: position for position, device in enumerate(prices)}
    room = [problem.room[device] for device in capped]
    rent = sum(prices[device] * problem.room[device] for device in capped)
    limit = math.inf if known is None else problem.time(known) * (1 - SAME)
    width = -(-LABELS // max(1, len(problem.seconds)))
    left_out = math.inf  # the least bound of labels that did not go on
    labels: dict[tuple[str, tuple[int, ...]], _Label] = {
        (problem.home, (0,) * len(capped)): (bound, 0.0, -rent, None)
    }
    for index, here in enumerate(problem.seconds):
        following: dict[tuple[str, tuple[int, ...]], _Label] = {}
        options = [
            (device, seconds, capped.get(device), problem.bytes_of(index, device))
            for device, seconds in sorted(here.items(), key=lambda item: item[1])
        ]
        moves = {
            (source, device): problem.transfer(source, device, index)
            for source in {source for source, _ in labels}
            for device in here
        }
        for (source, used), (_, before, paid, path) in labels.items():
            for device, seconds, position, size in options:
                holds, owes = used, paid
                if position is not None:
                    if used[position] + size > room[position]:
                        continue
                    holds = (*used[:position], used[position] + size, *used[position + 1 :])
                    owes += prices[device] * size
                total = before + moves[source, device] + seconds
                least = total + owes + remaining[index + 1][device]
                if least >= limit:
                    continue
                old = following.get((device, holds))
                if old is None or total < old[1] * (1 - SAME):
                    following[device, holds] = (least, total, owes, (path, device))
        if len(following) > width:
            ordered = sorted(following.items(), key=lambda item: item[1][0])
            left_out = min(left_out, ordered[width][1][0])
            following = dict(ordered[:width])
        labels = following
    paths = [_unwound(label) for label in labels.values()]
    known = _best(problem, paths if known is None else [known, *paths])
    if known is None:
        return None, bound
    return known, max(bound, min(left_out, problem.time(known)))


def _unwound(label: _Label) -> list[str]:
    path: list[str] = []
    at = label[-1]
    while at is not None:
        path.append(at[1])
        at = at[0]
    return path[::-1]


def obstacles(problem: ChainProblem, path: Sequence[str]) -> list[list[str]]:
    """Return for each layer what keeps it from the devices where it would be faster."""
    used = problem.used(path)
    found = []
    for index, (here, on) in enumerate(zip(problem.seconds, path, strict=True)):
        keeps: list[str] = []
        for other in sorted(here):
            elsewhere = [*path[:index], other, *path[index + 1 :]]
            extra = _around(problem, elsewhere, index) - _around(problem, path, index)
            held = used[other] + problem.bytes_of(index, other)
            if other == on or (here[other] >= here[on] and extra >= 0):
                continue
            if held > problem.room.get(other, held):
                keeps.append(f"no room on {other}")
            else:
                keeps.append(f"the way to {other} would add {1e3 * extra:.2f} ms")
        found.append(keeps)
    return found


def _reasons(problem: ChainProblem, path: Sequence[str]) -> list[str]:
    return [
        "the only device for it"
        if len(here) == 1
        else ", ".join([f"least time of the chain: {milliseconds(here)}", *keeps])
        for here, keeps in zip(problem.seconds, obstacles(problem, path), strict=True)
    ]
