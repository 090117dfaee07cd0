"""The plan of a model as values: what `ciuic.models.plan` returns and ``ciuic plan`` prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .size import ModelSize


@dataclass(frozen=True, kw_only=True)
class PlacedPart:
    """Layers that are alike on one device, or the head.

    Attributes
    ----------
    part, device
        Which, and where.
    reason
        Why there.
    prefill_seconds, token_seconds
        Of one of these layers: the whole prompt, and the first token after it.
    on_host
        Operators that the device has no kernel for; the host runs them.
    """

    part: str
    device: str
    reason: str
    prefill_seconds: float
    token_seconds: float
    on_host: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DeviceMemory:
    """One tier of memory of one device.

    Attributes
    ----------
    tier, device
        Which.
    capacity_bytes
        What it has, or its cap; None where that is not known.
    nbytes
        Kind -> bytes: weights (that stay), slots (that other weights stream through), originals
        (weights on the host that devices have copies of), kv_cache (at full context), activations
        and staging (the most at any time).
    """

    tier: str
    device: str
    capacity_bytes: int | None
    nbytes: Mapping[str, int]

    @property
    def total_bytes(self) -> int:
        """Bytes of all kinds."""
        return sum(self.nbytes.values())

    @property
    def fits(self) -> bool:
        """Whether there is room for all of it."""
        return self.capacity_bytes is None or self.total_bytes <= self.capacity_bytes

    def room_after(self, nbytes: int) -> int:
        """Return the bytes that are left after some; negative if these are too many."""
        return (self.capacity_bytes or 0) - nbytes


@dataclass(frozen=True, kw_only=True)
class DeviceResidency:
    """A device that does not hold all of its weights: what stays there, and what streams to it.

    Attributes
    ----------
    device, source
        Which, and the tier that the others come from: "host" or "disk".
    pinned, streamed, on_demand
        Names of weights: those that stay, those that stream for every token in this order, and
        those of experts, brought when a token is routed to them.
    pinned_bytes, streamed_bytes, routed_bytes
        Of what stays; of what crosses the link for a token, and what of ``on_demand`` does in the
        mean.
    slots, slot_bytes, expert_slots, expert_slot_bytes
        Room that the others pass through.
    link_bytes_per_second
        How fast they come, as assumed.
    waiting_seconds
        For weights, for a token: what comes on top of the computation.
    """

    device: str
    source: str
    pinned: tuple[str, ...]
    streamed: tuple[str, ...]
    on_demand: tuple[str, ...]
    pinned_bytes: int
    streamed_bytes: int
    routed_bytes: int
    slots: int
    slot_bytes: int
    expert_slots: int
    expert_slot_bytes: int
    link_bytes_per_second: float
    waiting_seconds: float

    @property
    def slots_bytes(self) -> int:
        """Bytes of all slots."""
        return self.slots * self.slot_bytes + self.expert_slots * self.expert_slot_bytes

    @property
    def moving(self) -> tuple[str, ...]:
        """Names of all weights that do not stay."""
        return self.streamed + self.on_demand


@dataclass(frozen=True, kw_only=True)
class DeviceTime:
    """What a device does for one token.

    Attributes
    ----------
    device, emulated
        Which, and whether it stands in for hardware: then ``work_seconds`` are the hardware's.
    tasks
        How many.
    work_seconds, overhead_seconds
        In the hardware, and to start tasks.
    basis
        Where ``work_seconds`` are from -> of how many tasks: "cycle model", "measured" (by ``ciuic
        calibrate``) or "assumed".
    streamed_bytes, bytes_per_second
        Weights that are read, and how fast they can be at most: what is assumed of the device's
        memory, or what was measured if that is more.
    """

    device: str
    emulated: bool
    tasks: int
    work_seconds: float
    overhead_seconds: float
    basis: Mapping[str, int]
    streamed_bytes: int
    bytes_per_second: float


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Estimated times, weights being where they belong or streaming there.

    Attributes
    ----------
    time_to_first_token
        Seconds for the prompt.
    tokens_per_second, tokens_per_second_at_context
        Decoding just after the prompt, and when the context is full.
    limit_tokens_per_second
        What reading each weight that a token needs once, at the memory's bandwidth, would allow.
    transfer_seconds
        Between devices, for one token.
    devices
        What each does for one token.
    total_seconds
        Prompt and answer up to the full context.
    waiting_seconds
        For weights that stream, for one token.
    """

    time_to_first_token: float
    tokens_per_second: float
    tokens_per_second_at_context: float
    limit_tokens_per_second: float
    transfer_seconds: float
    devices: tuple[DeviceTime, ...]
    total_seconds: float
    waiting_seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class SingleDevice:
    """The whole model on one device."""

    device: str
    fits: bool
    time_to_first_token: float
    tokens_per_second: float
    total_seconds: float


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """What a model will take. All times are estimates.

    Attributes
    ----------
    model, format, context, prompt_tokens
        What was planned.
    size
        Parameters, arithmetic and cache.
    placement
        What is where, and why.
    memory
        By tier and device.
    prediction
        Times.
    single_devices
        The same with everything on one device, for comparison.
    problems, would_fit
        What does not fit, with its numbers, and what would.
    left_out
        What of the model is not loaded, and so not planned.
    residency
        Of each device whose weights do not all fit.
    """

    model: str
    format: str
    context: int
    prompt_tokens: int
    size: ModelSize
    placement: tuple[PlacedPart, ...]
    memory: tuple[DeviceMemory, ...]
    prediction: Prediction
    single_devices: tuple[SingleDevice, ...]
    problems: tuple[str, ...]
    would_fit: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    residency: tuple[DeviceResidency, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether every device has room for its part."""
        return not self.problems

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return {"estimated": True, "fits": self.fits, **asdict(self)}


def placement_of(plan: ModelPlan) -> str:
    """Return a plan's placement as ``--place`` takes it."""
    return ",".join(f"{part.part.split()[-1]}={part.device}" for part in plan.placement)
