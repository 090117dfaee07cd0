"""Placement: which device each layer is on. Decides; touches no device.

A placement is written as assignments ``WHERE=URI`` with commas between, e.g.
``0-9=opencl,10-28=cpu,29=fpga:rtl?config=tiny,head=cpu``. ``WHERE`` is a layer, a range of layers
(both ends included), ``head`` (the product with the vocabulary) or ``*`` (everything that no other
assignment names). What nothing names is on the host.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ciuic.errors import PlacementError, UsageError

HOST = "cpu"
HEAD = "head"
REST = "*"
EXAMPLE = "0-9=opencl,10-28=cpu,29=fpga:rtl,head=cpu"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device of each layer.

    Attributes
    ----------
    layers
        URI of each layer's device.
    head
        URI of the device of the output head.
    """

    layers: tuple[str, ...]
    head: str


def parse_placement(spec: str, *, n_layers: int) -> Placement:
    """Return the placement that a specification names.

    Raises
    ------
    UsageError
        If the specification cannot be read, names a layer that the model does not have, or names
        one twice.
    """
    named: dict[int | str, str] = {}
    for part in spec.split(","):
        where, found, uri = part.strip().partition("=")
        if not (found and uri):
            raise UsageError(f"--place must be like {EXAMPLE!r}, not {part!r}")
        for place in _places(where.strip(), n_layers):
            if place in named:
                raise UsageError(f"--place must name {_title(place)} once, not twice ({spec!r})")
            named[place] = uri.strip()
    rest = named.get(REST, HOST)
    return Placement(
        layers=tuple(named.get(layer, rest) for layer in range(n_layers)),
        head=named.get(HEAD, rest),
    )


def cheapest_chain(
    costs: Sequence[Mapping[str, float]], transfer: Callable[[str, str, int], float]
) -> list[str]:
    """Return the device of each layer of a chain such that the whole takes least.

    Exact: a shortest path through layers and devices, from the host and back to it. A single
    device for all layers is one of the paths, so the result is never worse than the best of these.

    Parameters
    ----------
    costs
        For each layer, device URI -> seconds. A layer is only put on a device that it names.
    transfer
        Seconds to move what goes between layer i - 1 and layer i, by (source, target, i).

    Raises
    ------
    PlacementError
        If a layer has no device.
    """
    best: dict[str, tuple[float, list[str]]] = {HOST: (0.0, [])}
    for index, here in enumerate(costs):
        if not here:
            raise PlacementError(f"layer {index} of the chain has no device that can run it")
        best = {
            device: min(
                (total + transfer(source, device, index) + seconds, [*path, device])
                for source, (total, path) in best.items()
            )
            for device, seconds in here.items()
        }
    return min(
        (total + transfer(device, HOST, len(costs)), path) for device, (total, path) in best.items()
    )[1]


def chain_with_room(
    costs: Sequence[Mapping[str, float]],
    transfer: Callable[[str, str, int], float],
    sizes: Sequence[Mapping[str, int]],
    room: Mapping[str, int],
) -> tuple[list[str], list[frozenset[str]]]:
    """Return the device of each layer such that its weights fit, and the devices that were full.

    Starts from `cheapest_chain`; where a device has too little room, the last of the layers that
    could be elsewhere gives way, until all fit. That need not be the optimum.

    Parameters
    ----------
    costs, transfer
        As for `cheapest_chain`.
    sizes
        For each layer, device URI -> bytes that it would take there.
    room
        Device URI -> bytes available.

    Returns
    -------
    chosen
        URI of each layer's device.
    full
        For each layer, the devices that had no room for it.

    Raises
    ------
    PlacementError
        If the layers do not fit.
    """
    allowed = [dict(here) for here in costs]
    full: list[set[str]] = [set() for _ in costs]
    while True:
        chosen = cheapest_chain(allowed, transfer)
        wanted: Counter[str] = Counter()
        for index, device in enumerate(chosen):
            wanted[device] += sizes[index][device]
        crowded = [device for device, size in wanted.items() if size > room[device]]
        if not crowded:
            return chosen, [frozenset(devices) for devices in full]
        device = crowded[0]
        movable = [i for i, on in enumerate(chosen) if on == device and len(allowed[i]) > 1]
        if not movable:
            raise PlacementError(
                f"{device} must hold {wanted[device]:,} bytes of weights, "
                f"{room[device]:,} are available"
            )
        del allowed[movable[-1]][device]
        full[movable[-1]].add(device)


def _places(where: str, n_layers: int) -> list[int | str]:
    if where in (HEAD, REST):
        return [where]
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", where)
    if match is None:
        raise UsageError(
            f"--place must name a layer, a range like 0-9, 'head' or '*', not {where!r}"
        )
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if not first <= last < n_layers:
        raise UsageError(f"--place must name layers from 0 to {n_layers - 1}, not {where!r}")
    return list(range(first, last + 1))


def _title(place: int | str) -> str:
    return f"layer {place}" if isinstance(place, int) else repr(place)
