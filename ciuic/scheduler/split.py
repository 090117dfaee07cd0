"""Stages whose work is divided over devices: linear layers by columns, experts one by one.

A stage's parts run at the same time, each device doing its share; the stage ends when the last one
does. Activations come from the stage's *home* before it, go to every device that takes part, and
are gathered at its own home. What is moved is counted whole, whatever the share: activations are
small beside weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ciuic.errors import PlacementError

from .problem import HOST, Transfer


@dataclass(frozen=True, kw_only=True)
class Part:
    """Equal pieces of work, each whole on one device.

    Attributes
    ----------
    seconds
        Device -> seconds of one piece; an expert's are those of its expected share of tokens.
    nbytes
        Device -> bytes of one piece's weights; none where it names nothing.
    count
        Pieces: blocks of columns of a linear layer, or 1 for a layer or expert.
    """

    seconds: Mapping[str, float]
    nbytes: Mapping[str, int] = field(default_factory=dict)
    count: int = 1


Share = Mapping[str, int]  # device -> pieces


@dataclass(frozen=True, kw_only=True)
class SplitProblem:
    """Stages one after the other, each made of parts that may run side by side.

    Attributes
    ----------
    stages
        The parts of each stage.
    transfer
        Seconds to move what goes between stage i - 1 and stage i, by (source, target, i).
    room
        Device -> bytes available; a device that is not named has room for all.
    home
        Where the input comes from and the result goes.

    Raises
    ------
    PlacementError
        If a part has no pieces or no device, or a stage no parts.
    """

    stages: Sequence[Sequence[Part]]
    transfer: Transfer
    room: Mapping[str, int] = field(default_factory=dict)
    home: str = HOST

    def __post_init__(self) -> None:
        for index, parts in enumerate(self.stages):
            if not parts or any(not part.seconds or part.count < 1 for part in parts):
                raise PlacementError(f"stage {index} has no work, or no device for it")

    @property
    def devices(self) -> list[str]:
        """The devices that a part may be on, and home."""
        named = (device for parts in self.stages for part in parts for device in part.seconds)
        return list(dict.fromkeys([self.home, *named]))

    def used(self, shares: Sequence[Sequence[Share]]) -> Counter[str]:
        """Return the bytes that each device holds."""
        used: Counter[str] = Counter()
        for parts, stage in zip(self.stages, shares, strict=True):
            for part, share in zip(parts, stage, strict=True):
                for device, pieces in share.items():
                    used[device] += pieces * part.nbytes.get(device, 0)
        return used

    def fits(self, shares: Sequence[Sequence[Share]]) -> bool:
        """Return whether every device has room for what it holds."""
        return all(size <= self.room.get(on, size) for on, size in self.used(shares).items())

    def load(self, stage: int, shares: Sequence[Share]) -> dict[str, float]:
        """Return the seconds that each device that takes part in a stage computes."""
        load: dict[str, float] = {}
        for part, share in zip(self.stages[stage], shares, strict=True):
            for device, pieces in share.items():
                if pieces:
                    load[device] = load.get(device, 0.0) + pieces * part.seconds[device]
        return load

    def homes(self, shares: Sequence[Sequence[Share]]) -> tuple[float, list[str]]:
        """Return the seconds of the whole with the best homes, and these: a shortest path."""
        best: dict[str, tuple[float, list[str]]] = {self.home: (0.0, [])}
        last = len(self.stages) - 1
        devices = self.devices
        for index, stage in enumerate(shares):
            load = self.load(index, stage)
            ways = {
                (source, target): max(
                    self.transfer(source, device, index)
                    + seconds
                    + self.transfer(device, target, index + 1)
                    for device, seconds in load.items()
                )
                for source in best
                for target in ([self.home] if index == last else devices)
            }
            best = {
                target: min(
                    (best[source][0] + seconds, [*best[source][1], target])
                    for (source, to), seconds in ways.items()
                    if to == target
                )
                for target in {target for _, target in ways}
            }
        return best[self.home]


@dataclass(frozen=True, kw_only=True)
class Split:
    """An answer: how many pieces of each part are on each device.

    Attributes
    ----------
    shares
        For each stage and part, device -> pieces, none of them 0.
    homes
        For each stage, where its result is gathered.
    seconds
        Predicted time of the whole.
    bound
        Seconds that no answer can beat; with parts taken in groups, no answer of the groups.
    reasons
        For each stage, why its work is where it is.
    """

    shares: tuple[tuple[Share, ...], ...]
    homes: tuple[str, ...]
    seconds: float
    bound: float
    reasons: tuple[str, ...]


def on_one_device(problem: SplitProblem) -> list[list[list[Share]]]:
    """Return the splits that leave all work on one device, of those that have room for it."""
    found: list[list[list[Share]]] = []
    for device in problem.devices:
        if all(device in part.seconds for parts in problem.stages for part in parts):
            shares: list[list[Share]] = [
                [{device: part.count} for part in parts] for parts in problem.stages
            ]
            if problem.fits(shares):
                found.append(shares)
    return found


def explain(problem: SplitProblem, shares: Sequence[Sequence[Share]]) -> list[str]:
    """Return for each stage what each device does, and which devices are idle because of what."""
    used = problem.used(shares)
    reasons = []
    for index, (parts, stage) in enumerate(zip(problem.stages, shares, strict=True)):
        load = problem.load(index, stage)
        pieces: Counter[str] = Counter()
        for share in stage:
            pieces.update(share)
        total = sum(part.count for part in parts)
        does = [
            f"{device} {pieces[device]} of {total} in {1e3 * load[device]:.2f} ms"
            for device in sorted(load)
        ]
        for device in sorted({device for part in parts for device in part.seconds} - set(load)):
            smallest = min(part.nbytes.get(device, 0) for part in parts if device in part.seconds)
            if used[device] + smallest > problem.room.get(device, math.inf):
                does.append(f"no room on {device}")
            else:
                does.append(f"{device} would not pay for its transfers")
        reasons.append(", ".join(does))
    return reasons
