"""Operators that are not on their layer's device: divided matrices, experts one by one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from ciuic.devices import Device, Weight
from ciuic.devices.roofline import Estimate
from ciuic.errors import UsageError
from ciuic.runtime import Runtime
from ciuic.scheduler.milp import place_split
from ciuic.scheduler.split import Part, SplitProblem

from .weights import weights_for

if TYPE_CHECKING:
    from .model import Layer
    from .weights import LayerWeights

BLOCK_COLUMNS = 8  # that go together, at least: the columns of the smallest array
MOST_BLOCKS = 256
EXPERT = re.compile(r"expert\.\d+")
FLOAT32_NBYTES = 4


def place_operators(
    layers: Sequence[Layer],
    runtime: Runtime,
    operators: Mapping[tuple[int, str], Sequence[str]],
) -> dict[tuple[int, str], str]:
    """Put operators of layers on devices of their own; return who got what, and why.

    Parameters
    ----------
    layers
        Of the model, on their devices.
    runtime
        Remembers the divisions.
    operators
        As of `ciuic.scheduler.placement.Placement`.

    Raises
    ------
    UsageError
        If a layer has no such matrix or expert, or an expert is to be shared.
    """
    found: dict[tuple[int, str], str] = {}
    for (index, role), uris in operators.items():
        layer = layers[index]
        home = runtime.device(layer.device)
        weights = weights_for(layer, home)
        devices = [runtime.device(uri) for uri in uris]
        names = _matrices(weights, index, role)
        if len(names) > 1 and len(devices) > 1:
            raise UsageError(f"--place must put expert {index}.{role} on one device")
        for name in names:
            weight = weights[name]
            bias = weights[f"{name}_bias"] if f"{name}_bias" in weights.stored else None
            shares, why = share_columns(runtime, weight, devices, home)
            division = runtime.divide(weight, shares, bias)
            found[index, role] = f"{division} ({why})" if len(names) == 1 else str(devices[0].uri)
    return found


def divided_over(layers: Iterable[Layer], runtime: Runtime) -> list[Device]:
    """Return the devices that have parts of layers' matrices, or their experts."""
    divisions = (
        runtime.division(weight)
        for layer in layers
        for _, weight in weights_for(layer, runtime.device(layer.device))
    )
    return [part.device for division in divisions for part in division or ()]


def share_columns(
    runtime: Runtime,
    weight: Weight,
    devices: Sequence[Device],
    home: Device,
    room: Mapping[str, int] | None = None,
) -> tuple[list[tuple[Device, int]], str]:
    """Return how many columns of a matrix (k, n) each device takes so that all end early, and why.

    For one token, by the cost model, or the device's own model of its hardware. ``room`` is URI ->
    bytes, what devices have free by default; a device that it does not name has room for all.
    """
    k, n = weight.shape
    if len(devices) == 1:
        return [(devices[0], n)], "as asked"
    size = max(BLOCK_COLUMNS, -(-n // MOST_BLOCKS))
    blocks = -(-n // size)
    by_uri = {device.uri: device for device in devices}
    part = Part(
        seconds={uri: linear_seconds(runtime, on, k, n) / blocks for uri, on in by_uri.items()},
        nbytes={uri: on.weight_bytes(weight) // blocks for uri, on in by_uri.items()},
        count=blocks,
    )
    ends = {**by_uri, home.uri: home}

    def transfer(source: str, target: str, stage: int) -> float:
        moved = FLOAT32_NBYTES * (k if stage == 0 else n)
        return runtime.costs.transfer_seconds(ends[source], ends[target], moved)

    if room is None:
        room = {uri: on.capacity_bytes - on.used_bytes for uri, on in by_uri.items()}
    split = place_split(SplitProblem(stages=[[part]], transfer=transfer, room=room, home=home.uri))
    (share,) = split.shares[0]
    shares: list[tuple[Device, int]] = []
    left = n
    for uri, pieces in share.items():
        count = min(left, pieces * size)
        if count:
            shares.append((by_uri[uri], count))
        left -= count
    return shares, split.reasons[0]


def linear_seconds(runtime: Runtime, device: Device, k: int, n: int) -> float:
    """Return what a linear layer of a token takes, by the device's own model or the cost model."""
    shapes = ((1, k), (k, n))
    estimate: Estimate | None = device.estimate("linear", shapes, {})
    if estimate is not None and not estimate.products_on_host:
        return estimate.seconds
    return runtime.costs.seconds(device, "linear", shapes, {})


def _matrices(weights: LayerWeights, index: int, role: str) -> list[str]:
    """Return the roles of the matrices that a name of an operator stands for."""
    stored = weights.stored
    if EXPERT.fullmatch(role):
        names = [name for name in stored if name.startswith(f"{role}.")]
    else:
        names = [role] if role in stored and len(stored[role].shape) == 2 else []
    if not names:
        matrices = [name for name, one in stored.items() if len(one.shape) == 2]
        raise UsageError(
            f"--place must name a matrix or expert of layer {index}, one of "
            f"{', '.join(matrices[:20])}, not {role!r}"
        )
    return names
