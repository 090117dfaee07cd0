"""Dividing: which matrices of a layer several devices are to compute together. No I/O.

The columns of a matrix are shared so that all devices end early (`share_columns`, a mixed-integer
program where memory is short); that is kept only where a dry run of the layer then takes less time,
what is moved between devices and the tasks that are more included. So a divided plan is never
predicted to be worse than the whole one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ciuic.devices import Device

from .config import ModelConfig
from .divided import share_columns
from .layer_costs import CostRules, PartCost
from .size import is_expert

if TYPE_CHECKING:
    from .model import Layer

WORTH = 0.01  # of a layer's seconds: less is not gained for sure


class Shared(NamedTuple):
    """Devices that share a matrix, and why."""

    uris: tuple[str, ...]
    why: str


def divide_layer(
    rules: CostRules,
    layer: Layer,
    config: ModelConfig,
    others: Sequence[Device],
    room: Mapping[str, int],
    home: Device,
    cost: PartCost,
) -> tuple[dict[str, Shared], PartCost]:
    """Divide matrices of a layer where that is worth it; return these by role, and the cost then.

    Parameters
    ----------
    rules
        Tell the cost; their runtime knows the divisions afterwards.
    layer
        Its weights may be outlines.
    others
        Devices that may take part beside the home.
    room
        URI -> bytes that the others have for this layer.
    home
        Where the layer is.
    cost
        Of the layer as it is.
    """
    runtime, found, left = rules.runtime, dict[str, Shared](), dict(room)
    weights = layer.weights.on("FPGA" if layer.as_fpga else home.kind)
    roles = {id(weight): role for role, weight in weights}
    for call in cost.calls:
        role = roles.get(id(call.weights[0])) if call.weights else None
        if role is None or call.device is not home or not call.op.startswith("linear"):
            continue
        weight = weights[role]
        if is_expert(role) or runtime.division(weight) is not None:
            continue
        able = [home, *(one for one in others if one.supports(call.op))]
        shares, why = share_columns(runtime, weight, able, home, left)
        if len(shares) < 2:
            continue
        bias = weights[f"{role}_bias"] if f"{role}_bias" in weights.stored else None
        division = runtime.divide(weight, shares, bias)
        tried = rules.layer(layer, config, home)
        if tried.seconds < (1 - WORTH) * cost.seconds:
            saved = 1e3 * (cost.first.seconds - tried.first.seconds)
            why = f"{division} ({why}; {saved:.3g} ms less a token)"
            found[role] = Shared(tuple(device.uri for device, _ in shares), why)
            cost = tried
            for part in division:
                if part.weight is not None and part.device.uri in left:
                    left[part.device.uri] -= part.device.weight_bytes(part.weight)
        else:
            runtime.make_whole(weight)
    return found, cost


def make_whole(rules: CostRules, layer: Layer, home: Device, shared: Mapping[str, Shared]) -> None:
    """Take divisions of a layer back."""
    weights = layer.weights.on("FPGA" if layer.as_fpga else home.kind)
    for role in shared:
        rules.runtime.make_whole(weights[role])
