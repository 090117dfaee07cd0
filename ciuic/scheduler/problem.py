"""What placement decides on: problems and their answers as values. No I/O, no devices.

A device is its URI. Seconds come from whoever asks (`ciuic.scheduler.cost`, or measured); bytes
are those that stay on a device for good, weights before all.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ciuic.errors import PlacementError

HOST = "cpu"
Transfer = Callable[[str, str, int], float]


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """An answer: a device for each layer or task.

    Attributes
    ----------
    devices
        URI by layer or task.
    seconds
        Predicted time of the whole.
    bound
        Seconds that no answer can beat; equal to ``seconds`` where the answer is the optimum.
    reasons
        Why each is where it is.
    """

    devices: tuple[str, ...]
    seconds: float
    bound: float
    reasons: tuple[str, ...]

    @property
    def exact(self) -> bool:
        """Whether this is known to be the optimum."""
        return self.seconds <= self.bound * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True)
class ChainProblem:
    """Layers one after the other, each whole on one device.

    Attributes
    ----------
    seconds
        For each layer, device -> seconds. A layer is only put on a device that it names.
    transfer
        Seconds to move what goes between layer i - 1 and layer i, by (source, target, i).
    nbytes
        For each layer, device -> bytes that stay there; none where it names nothing.
    room
        Device -> bytes available; a device that is not named has room for all.
    home
        Where the input comes from and the result goes.

    Raises
    ------
    PlacementError
        If a layer has no device.
    """

    seconds: Sequence[Mapping[str, float]]
    transfer: Transfer
    nbytes: Sequence[Mapping[str, int]] = ()
    room: Mapping[str, int] = field(default_factory=dict)
    home: str = HOST

    def __post_init__(self) -> None:
        for index, here in enumerate(self.seconds):
            if not here:
                raise PlacementError(f"layer {index} of the chain has no device that can run it")

    @property
    def devices(self) -> list[str]:
        """The devices that a layer may be on."""
        return list(dict.fromkeys(device for here in self.seconds for device in here))

    def bytes_of(self, layer: int, device: str) -> int:
        """Return the bytes that a layer takes on a device."""
        return self.nbytes[layer].get(device, 0) if self.nbytes else 0

    def used(self, path: Sequence[str]) -> Counter[str]:
        """Return the bytes that each device holds if the layers are on ``path``."""
        used: Counter[str] = Counter()
        for layer, device in enumerate(path):
            used[device] += self.bytes_of(layer, device)
        return used

    def fits(self, path: Sequence[str]) -> bool:
        """Return whether every device has room for what it holds."""
        return all(size <= self.room.get(on, size) for on, size in self.used(path).items())

    def time(self, path: Sequence[str]) -> float:
        """Return the seconds of the chain, from home and back."""
        stops = itertools.pairwise([self.home, *path, self.home])
        moves = sum(self.transfer(a, b, index) for index, (a, b) in enumerate(stops))
        return moves + sum(here[on] for here, on in zip(self.seconds, path, strict=True))


@dataclass(frozen=True, kw_only=True)
class DagProblem:
    """Tasks that wait for each other, each on one device; a device runs one at a time.

    Transfers overlap with work and do not delay each other, the model of HEFT (Topcuoglu, Hariri
    and Wu, "Performance-effective and low-complexity task scheduling for heterogeneous computing",
    IEEE TPDS 13(3), 2002).

    Attributes
    ----------
    seconds
        For each task, device -> seconds. A task is only put on a device that it names.
    inputs
        For each task, the tasks whose results it reads; all have lower numbers.
    transfer
        Seconds to move the result of task i, by (source, target, i).
    nbytes, room
        As for `ChainProblem`.

    Raises
    ------
    PlacementError
        If a task has no device, or reads a later one.
    """

    seconds: Sequence[Mapping[str, float]]
    inputs: Sequence[Sequence[int]]
    transfer: Transfer
    nbytes: Sequence[Mapping[str, int]] = ()
    room: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for index, (here, inputs) in enumerate(zip(self.seconds, self.inputs, strict=True)):
            if not here:
                raise PlacementError(f"task {index} has no device that can run it")
            if any(not 0 <= source < index for source in inputs):
                raise PlacementError(f"task {index} must read earlier tasks, not {list(inputs)}")

    @property
    def devices(self) -> list[str]:
        """The devices that a task may be on."""
        return list(dict.fromkeys(device for here in self.seconds for device in here))

    def bytes_of(self, task: int, device: str) -> int:
        """Return the bytes that a task keeps on a device."""
        return self.nbytes[task].get(device, 0) if self.nbytes else 0


def milliseconds(figures: Mapping[str, float]) -> str:
    """Return seconds per device for people."""
    return ", ".join(f"{device} {1e3 * figures[device]:.2f} ms" for device in sorted(figures))


def too_little_room(
    seconds: Sequence[Mapping[str, float]],
    bytes_of: Callable[[int, str], int],
    room: Mapping[str, int],
) -> PlacementError:
    """Return the error that says what does not fit, and by how much."""
    forced: Counter[str] = Counter()
    least = 0
    for index, here in enumerate(seconds):
        least += min(bytes_of(index, device) for device in here)
        if len(here) == 1:
            (device,) = here
            forced[device] += bytes_of(index, device)
    for device, size in forced.items():
        if size > room.get(device, size):
            return PlacementError(
                f"{device} must hold {size:,} bytes of weights, {room[device]:,} are available"
            )
    have = ", ".join(f"{size:,} on {device}" for device, size in sorted(room.items()))
    return PlacementError(
        f"no way was found to fit the weights, at least {least:,} bytes, into {have}"
    )
