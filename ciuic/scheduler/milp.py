"""Placement of divided work by mixed-integer programming: HiGHS, through scipy (extra ``plan``).

Variables: pieces of each part on each device, whether a device takes part in a stage, where a
stage's result is gathered, and the stage's seconds T. For each stage i and device d that may take
part, with the homes as 0/1 vectors, at most one of which is 1:

    T_i >= load_id + transfers(home_i-1, d) + transfers(d, home_i) - M_id (1 - takes_part_id)

where M_id is the largest that the transfers can be. The sum of T is minimized; bytes keep to the
caps. Parts of a stage beyond `GROUPS`, such as hundreds of experts, go in as groups of like ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ciuic.errors import PlacementError

from .chain import place_chain
from .problem import ChainProblem
from .split import Part, Share, Split, SplitProblem, explain, on_one_device

GROUPS = 8  # parts of a stage that the program tells apart
SECONDS = 5.0  # after which the best answer so far is taken
GAP = 1e-3  # relative; an answer this close to the bound is good enough


def place_split(problem: SplitProblem, *, seconds: float = SECONDS) -> Split:
    """Return how the stages' work is divided; never worse than leaving every stage whole.

    Where parts were grouped, the answer's bound is that of the groups.

    Parameters
    ----------
    problem
    seconds
        Limit of the search.

    Raises
    ------
    PlacementError
        If the weights do not fit.
    """
    groups = [_grouped(parts) for parts in problem.stages]
    simpler = replace(problem, stages=[[group.part for group in stage] for stage in groups])
    found, bound = _Program(simpler).solve(seconds)
    candidates: list[Sequence[Sequence[Share]]] = [*on_one_device(problem), *_whole(problem)]
    if found is not None:
        dealt = [
            _dealt(problem.stages[index], groups[index], stage) for index, stage in enumerate(found)
        ]
        if problem.fits(dealt):
            candidates.append(dealt)
    if not candidates:
        raise PlacementError("no way was found to fit the weights on the devices")
    shares = min(candidates, key=lambda shares: problem.homes(shares)[0])
    total, homes = problem.homes(shares)
    return Split(
        shares=tuple(map(tuple, shares)),
        homes=tuple(homes),
        seconds=total,
        bound=min(bound, total),
        reasons=tuple(explain(problem, shares)),
    )


def _whole(problem: SplitProblem) -> list[list[list[Share]]]:
    """Return the best placement of undivided stages, if there is one."""
    wholes = [_devices_of(parts) for parts in problem.stages]
    if not all(wholes):
        return []
    chain = ChainProblem(
        seconds=[
            {d: sum(part.count * part.seconds[d] for part in parts) for d in devices}
            for parts, devices in zip(problem.stages, wholes, strict=True)
        ],
        nbytes=[
            {d: sum(part.count * part.nbytes.get(d, 0) for part in parts) for d in devices}
            for parts, devices in zip(problem.stages, wholes, strict=True)
        ],
        transfer=problem.transfer,
        room=problem.room,
        home=problem.home,
    )
    try:
        devices = place_chain(chain).devices
    except PlacementError:  # only divided do they fit
        return []
    return [
        [
            [{device: part.count} for part in parts]
            for parts, device in zip(problem.stages, devices, strict=True)
        ]
    ]


def _devices_of(parts: Sequence[Part]) -> list[str]:
    """Return the devices that all parts may be on."""
    return [device for device in parts[0].seconds if all(device in p.seconds for p in parts)]


@dataclass(frozen=True)
class _Group:
    """Parts taken as one, by their indexes: heaviest first."""

    members: tuple[int, ...]
    part: Part


def _grouped(parts: Sequence[Part]) -> list[_Group]:
    """Return the parts of a stage as at most about `GROUPS` of like parts.

    A group's piece has its members' mean seconds and largest bytes, so that caps still hold.
    """
    if len(parts) <= GROUPS:
        return [_Group((index,), part) for index, part in enumerate(parts)]
    alike: dict[tuple[frozenset[str], int], list[int]] = {}
    for index, part in enumerate(parts):
        alike.setdefault((frozenset(part.seconds), part.count), []).append(index)
    groups = []
    for (devices, count), indexes in alike.items():
        indexes.sort(key=lambda index: -sum(parts[index].seconds.values()))
        size = -(-len(indexes) * len(alike) // GROUPS)
        for start in range(0, len(indexes), size):
            members = tuple(indexes[start : start + size])
            groups.append(
                _Group(
                    members,
                    Part(
                        seconds={
                            d: sum(parts[m].seconds[d] for m in members) / len(members)
                            for d in sorted(devices)
                        },
                        nbytes={
                            d: max(parts[m].nbytes.get(d, 0) for m in members)
                            for d in sorted(devices)
                        },
                        count=count * len(members),
                    ),
                )
            )
    return groups


def _dealt(
    parts: Sequence[Part], groups: Sequence[_Group], shares: Sequence[Share]
) -> Sequence[Share]:
    """Return the share of each part from those of the groups.

    Members are dealt heaviest first, each piece to the device that lags most behind its quota.
    """
    dealt: list[dict[str, int]] = [{} for _ in parts]
    for group, share in zip(groups, shares, strict=True):
        given = dict.fromkeys(share, 0)
        for member in group.members:
            for _ in range(parts[member].count):
                device = min(share, key=lambda d: ((given[d] + 1) / share[d], d))
                given[device] += 1
                dealt[member][device] = dealt[member].get(device, 0) + 1
    return dealt


class _Program:
    """The mixed-integer program of a problem, built row by row."""

    def __init__(self, problem: SplitProblem) -> None:
        self._problem = problem
        self._devices = problem.devices
        self._integer: list[int] = []
        self._upper: list[float] = []
        self._rows: list[tuple[dict[int, float], float, float]] = []
        self._pieces: dict[tuple[int, int, str], int] = {}
        self._times: list[int] = []
        self._build()

    def solve(self, seconds: float) -> tuple[list[list[Share]] | None, float]:
        """Return the shares of the groups, if any were found, and the proven bound."""
        import numpy as np
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_matrix

        starts = np.cumsum([0, *(len(row) for row, _, _ in self._rows)])
        columns = [column for row, _, _ in self._rows for column in row]
        values = [value for row, _, _ in self._rows for value in row.values()]
        shape = (len(self._rows), len(self._upper))
        objective = np.zeros(len(self._upper))
        objective[self._times] = 1.0
        result: Any = milp(
            objective,
            integrality=np.array(self._integer),
            bounds=Bounds(0.0, np.array(self._upper)),
            constraints=LinearConstraint(
                csr_matrix((values, columns, starts), shape=shape),
                np.array([low for _, low, _ in self._rows]),
                np.array([high for _, _, high in self._rows]),
            ),
            options={"time_limit": seconds, "mip_rel_gap": GAP},
        )
        bound = result.mip_dual_bound
        bound = 0.0 if bound is None or not math.isfinite(bound) else self._unit * float(bound)
        return (None if result.x is None else self._shares(result.x)), bound

    def _shares(self, values: Sequence[float]) -> list[list[Share]]:
        shares: list[list[Share]] = []
        for index, parts in enumerate(self._problem.stages):
            stage: list[Share] = []
            for number, part in enumerate(parts):
                pieces = {
                    device: round(values[self._pieces[index, number, device]])
                    for device in part.seconds
                }
                stage.append({device: count for device, count in pieces.items() if count})
            shares.append(stage)
        return shares

    def _variable(self, upper: float, *, integer: bool = True) -> int:
        self._integer.append(int(integer))
        self._upper.append(upper)
        return len(self._upper) - 1

    def _row(
        self, terms: Mapping[int, float], low: float = -math.inf, high: float = math.inf
    ) -> None:
        self._rows.append((dict(terms), low, high))

    def _build(self) -> None:
        problem = self._problem
        # Seconds are counted in this unit: solvers take differences of 1e-6 for none.
        self._unit = (
            sum(
                part.count * min(part.seconds.values())
                for parts in problem.stages
                for part in parts
            )
            / len(problem.stages)
            or 1.0
        )
        before: dict[str, int] | None = None
        for index, parts in enumerate(problem.stages):
            last = index == len(problem.stages) - 1
            after = None if last else {device: self._variable(1) for device in self._devices}
            if after is not None:
                self._row(dict.fromkeys(after.values(), 1.0), 1, 1)
            self._stage(index, parts, before, after)
            before = after
        for device, room in problem.room.items():
            held = {
                column: float(problem.stages[index][number].nbytes.get(device, 0))
                for (index, number, on), column in self._pieces.items()
                if on == device
            }
            if sum(self._upper[column] * size for column, size in held.items()) > room:
                scale = max(1.0, max(held.values()))
                self._row({c: size / scale for c, size in held.items()}, high=room / scale)

    def _stage(
        self,
        index: int,
        parts: Sequence[Part],
        before: Mapping[str, int] | None,
        after: Mapping[str, int] | None,
    ) -> None:
        """Add a stage; homes are None where they are the problem's."""
        time = self._variable(math.inf, integer=False)
        self._times.append(time)
        loads: dict[str, dict[int, float]] = {}
        for number, part in enumerate(parts):
            pieces = {device: self._variable(part.count) for device in part.seconds}
            self._row(dict.fromkeys(pieces.values(), 1.0), part.count, part.count)
            for device, column in pieces.items():
                self._pieces[index, number, device] = column
                loads.setdefault(device, {})[column] = part.seconds[device] / self._unit
        for device, load in loads.items():
            takes_part = self._variable(1)
            for column in load:
                self._row({column: 1.0, takes_part: -self._upper[column]}, high=0)
            moves, fixed, most = self._moves(index, device, before, after)
            row = {time: 1.0, takes_part: -most}
            row |= {column: -seconds for column, seconds in load.items()}
            for column, seconds in moves.items():
                row[column] = -seconds
            self._row(row, low=fixed - most)

    def _moves(
        self,
        index: int,
        device: str,
        before: Mapping[str, int] | None,
        after: Mapping[str, int] | None,
    ) -> tuple[dict[int, float], float, float]:
        """Return a device's transfer seconds by home variable, the fixed ones, the most of all."""
        problem, unit = self._problem, self._unit
        moves: dict[int, float] = {}
        fixed = most = 0.0
        if before is None:
            fixed += problem.transfer(problem.home, device, index) / unit
        else:
            arrive = {c: problem.transfer(a, device, index) / unit for a, c in before.items()}
            moves |= arrive
            most += max(arrive.values())
        if after is None:
            fixed += problem.transfer(device, problem.home, index + 1) / unit
        else:
            leave = {c: problem.transfer(device, b, index + 1) / unit for b, c in after.items()}
            moves |= leave
            most += max(leave.values())
        return moves, fixed, fixed + most
