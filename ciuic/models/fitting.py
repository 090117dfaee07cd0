"""Fitting: which of a model's weights stay on a device that does not hold all of them. No I/O.

Weights that every token needs stream in their order (`ciuic.memory.residency`). Routed experts are
brought when a token is routed to them, through slots of their own, and never in vain; those that
fit beside the rest stay. Vectors, and what is no matrix in integers, always stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from ciuic.devices import Device
from ciuic.errors import OutOfMemory
from ciuic.memory.residency import Use, plan_residency
from ciuic.quantize_int4 import Quantized

from .config import ModelConfig
from .layer_costs import Workload
from .placed import Placed
from .plan_report import DeviceResidency, Prediction
from .size import is_expert
from .weights import LayerWeights

EXPERT_SLOTS = 4
DISK_BYTES_PER_SECOND = 1e9  # assumed; whoever reads from it measures


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the model and where it runs.

    Attributes
    ----------
    name
        "layers.3." or "head.", before the roles of its weights.
    weights
        Outlines will do.
    on
        Where it runs.
    seconds
        Of the part for one token.
    held_bytes
        URI -> bytes of all its weights, those included that operators bring when they first run.
    """

    name: str
    weights: LayerWeights
    on: Placed
    seconds: float
    held_bytes: Mapping[str, int]


def fit(
    parts: Iterable[Part],
    device: Device,
    room: int,
    *,
    source: str,
    link_bytes_per_second: float,
    routed_share: float,
) -> DeviceResidency:
    """Return what of the parts' weights stays on a device with ``room`` bytes for weights.

    Parameters
    ----------
    parts
        In the order in which a token goes through them; of those on other devices the weights
        count that are used here, for want of a kernel there.
    device
        Which one.
    room
        Bytes.
    source
        The tier that the rest streams from.
    link_bytes_per_second
        How fast it does.
    routed_share
        Of a layer's experts, how many a token is routed to.

    Raises
    ------
    OutOfMemory
        If they do not fit even so; it says how much would do.
    """
    parts = list(parts)
    named = [one for part in parts for one in _weights(part, device)]
    brought = sum(part.held_bytes.get(device.uri, 0) for part in parts)
    brought -= sum(use.nbytes for use, _ in named)
    always = [use for use, expert in named if not expert]
    experts = [use for use, expert in named if expert]
    slot_bytes = max((use.nbytes for use in experts), default=0)
    reserve = EXPERT_SLOTS * slot_bytes
    try:
        found = plan_residency(
            always,
            room - brought - reserve,
            tier=device.uri,
            link_bytes_per_second=link_bytes_per_second,
        )
    except OutOfMemory as error:
        wanted = error.wanted + brought + reserve
        raise OutOfMemory(device.uri, wanted=wanted, available=room, capacity=room) from None
    left = room - brought - reserve - found.used_bytes
    ends = accumulate(use.nbytes for use in experts)
    staying = [use for use, end in zip(experts, ends, strict=True) if end <= left]
    coming = experts[len(staying) :]
    routed_bytes = round(routed_share * sum(use.nbytes for use in coming))
    computing = sum(use.seconds for use in always)
    return DeviceResidency(
        device=device.uri,
        source=source,
        pinned=tuple(str(key) for key in (*found.pinned, *(use.key for use in staying))),
        streamed=tuple(map(str, found.streamed)),
        on_demand=tuple(str(use.key) for use in coming),
        pinned_bytes=found.pinned_bytes + brought + sum(use.nbytes for use in staying),
        streamed_bytes=found.streamed_bytes,
        routed_bytes=routed_bytes,
        slots=found.slots,
        slot_bytes=found.slot_bytes,
        expert_slots=EXPERT_SLOTS if coming else 0,
        expert_slot_bytes=slot_bytes if coming else 0,
        link_bytes_per_second=link_bytes_per_second,
        waiting_seconds=max(0.0, found.seconds - computing) + routed_bytes / link_bytes_per_second,
    )


def link_of(device: Device) -> float:
    """Return how fast weights come to a device, in bytes per second, as assumed."""
    if device.host_memory:
        return DISK_BYTES_PER_SECOND
    return device.roofline.link_bytes_per_second


def routed_share(config: ModelConfig) -> float:
    """Return how many of a layer's experts a token is routed to, over their number."""
    share: float = getattr(config, "top_k", 1) / max(1, getattr(config, "n_experts", 1))
    return share


def waiting(
    prediction: Prediction, residency: Sequence[DeviceResidency], workload: Workload
) -> Prediction:
    """Return a prediction with the time that is waited for weights."""
    if not residency:
        return prediction
    token = sum(one.waiting_seconds for one in residency)
    cycle = sum(one.streamed_bytes / one.link_bytes_per_second for one in residency)
    passes = sum(share for _, _, share in workload.chunks)
    # A pass over many tokens computes longer, and its weights may come meanwhile.
    first = max(prediction.time_to_first_token, passes * cycle)
    more = first - prediction.time_to_first_token + workload.written * token
    return replace(
        prediction,
        time_to_first_token=first,
        tokens_per_second=1 / (1 / prediction.tokens_per_second + token),
        tokens_per_second_at_context=1 / (1 / prediction.tokens_per_second_at_context + token),
        waiting_seconds=token,
        total_seconds=prediction.total_seconds + more,
    )


def _weights(part: Part, device: Device) -> Iterator[tuple[Use, bool]]:
    """Yield the uses of a part's weights on a device, and whether they are a routed expert's."""
    held: dict[int, tuple[str, int, bool]] = {}
    for role, weight in part.weights.on(part.on.device.kind):
        if part.on.home_of(weight) is device:
            nbytes = device.weight_bytes(weight)
            held.setdefault(id(weight), (role, nbytes, isinstance(weight, Quantized)))
    total = sum(nbytes for _, nbytes, _ in held.values())
    for role, nbytes, streams in held.values():
        seconds = part.seconds * nbytes / total if total else 0.0
        use = Use(key=part.name + role, nbytes=nbytes, streams=streams, seconds=seconds)
        yield use, streams and is_expert(role)
