"""Dividing: which matrices and experts of a layer are on other devices than the layer. No I/O.

The columns of a matrix are shared so that all devices end early (`share_columns`, a mixed-integer
program where memory is short); experts are put on devices one by one by such a program. Either is
kept only where a dry run of the layer then takes less time, what is moved between devices and the
tasks that are more included. So a divided plan is never predicted to be worse than the whole one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ciuic.devices import Device, Weight
from ciuic.quantize_int4 import Quantized
from ciuic.scheduler.milp import place_split
from ciuic.scheduler.split import Part, SplitProblem

from .config import ModelConfig
from .divided import linear_seconds, share_columns
from .fitting import routed_share
from .layer_costs import CostRules, PartCost
from .size import is_expert
from .weights import weights_for

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
    """Divide a layer where that is worth it; return its matrices, by role, and its cost then.

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
    runtime, left = rules.runtime, dict(room)
    found, cost = _place_experts(rules, layer, config, others, left, home, cost)
    weights = weights_for(layer, home)
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


def _place_experts(
    rules: CostRules,
    layer: Layer,
    config: ModelConfig,
    others: Sequence[Device],
    left: dict[str, int],
    home: Device,
    cost: PartCost,
) -> tuple[dict[str, Shared], PartCost]:
    """Put experts where they take less time; return these and the layer's cost then.

    What they take is taken off ``left``.
    """
    runtime = rules.runtime
    weights = weights_for(layer, home)
    experts: dict[str, list[Weight]] = {}
    for role, weight in weights:
        if is_expert(role) and isinstance(weight, Quantized):
            experts.setdefault(role.rpartition(".")[0], []).append(weight)
    op = "linear_int4" if weights.quantize == "int4" else "linear"
    able = {one.uri: one for one in (home, *others) if one.supports(op)}
    if not experts or len(able) < 2:
        return {}, cost
    share = routed_share(config)

    def transfer(source: str, target: str, _stage: int) -> float:
        return runtime.costs.transfer_seconds(able[source], able[target], 4 * config.dim)

    parts = [
        Part(
            seconds={
                uri: share * sum(linear_seconds(runtime, on, *one.shape) for one in matrices)
                for uri, on in able.items()
            },
            nbytes={uri: sum(map(on.weight_bytes, matrices)) for uri, on in able.items()},
        )
        for matrices in experts.values()
    ]
    split = place_split(SplitProblem(stages=[parts], transfer=transfer, room=left, home=home.uri))
    (shares,) = split.shares
    quotas: Counter[str] = Counter()
    for one in shares:
        quotas.update(one)
    away = {
        name: able[uri]
        for name, uri in zip(experts, _in_turns(quotas), strict=True)
        if uri != home.uri
    }
    if not away:
        return {}, cost
    for name, on in away.items():
        for weight in experts[name]:
            runtime.divide(weight, [(on, weight.shape[1])])
    tried = rules.layer(layer, config, home)
    if not tried.seconds < (1 - WORTH) * cost.seconds:
        for name in away:
            for weight in experts[name]:
                runtime.make_whole(weight)
        return {}, cost
    for name, on in away.items():
        left[on.uri] -= sum(map(on.weight_bytes, experts[name]))
    saved = 1e3 * (cost.seconds - tried.seconds)
    why = f"experts one by one ({split.reasons[0]}; {saved:.3g} ms less in all)"
    return {name: Shared((on.uri,), why) for name, on in away.items()}, tried


def _in_turns(quotas: Mapping[str, int]) -> Iterator[str]:
    """Yield each device as often as its quota says, in turns: neighbours are on different ones.

    A layer's experts are of a size, so it is all the same which of them a device has.
    """
    given = dict.fromkeys(quotas, 0)
    for _ in range(sum(quotas.values())):
        device = min(quotas, key=lambda one: ((given[one] + 1) / quotas[one], one))
        given[device] += 1
        yield device


def make_whole(rules: CostRules, layer: Layer, home: Device, shared: Mapping[str, Shared]) -> None:
    """Take divisions of a layer back."""
    weights = weights_for(layer, home)
    for role, weight in weights:
        if role in shared or role.rpartition(".")[0] in shared:
            rules.runtime.make_whole(weight)


def told(shared: Mapping[str, Shared]) -> list[str]:
    """Return why, once for all experts."""
    whys = {
        one.why if is_expert(f"{role}.") else f"{role}: {one.why}": None
        for role, one in shared.items()
    }
    return list(whys)
