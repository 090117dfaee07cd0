"""Recovery: a model goes on without a device that failed, and writes the same text.

What was computed there is lost, caches too, so the tokens so far are read again. Number formats do
not change: layers that were on an FPGA compute in its formats wherever they go. With INT8 or INT4
layers the tokens are the same then; with float32 ones another device may round otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from ciuic.devices import Device
from ciuic.errors import CiuicError, PlacementError, Story
from ciuic.memory.tiers import weights_on
from ciuic.scheduler.failover import Stranded, Survivor, fail_over
from ciuic.stranded import keep_formats

from .placed import HOST
from .weights import weights_for

if TYPE_CHECKING:
    from .model import Model
    from .weights import LayerWeights

logger = logging.getLogger(__name__)
HEAD = "head"
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """A failure that a model went on after.

    Attributes
    ----------
    error
        What failed, in words.
    story
        What the device was doing.
    moved
        Part ("layer 3", "head") -> URI of the device that it is on since.
    """

    error: str
    story: Story
    moved: dict[str, str]

    def __str__(self) -> str:
        moved = ", ".join(f"{part} on {device}" for part, device in self.moved.items())
        return f"{self.story.device} failed: {self.error}; {self.story}; goes on with {moved}"


def persist(model: Model, step: Callable[[], Result], again: Callable[[], Result]) -> Result:
    """Return what a step gives; after a device's failure what ``again`` gives, without it.

    Parameters
    ----------
    step
        Computes something with the model.
    again
        Computes the same from the beginning, with caches that are empty.

    Raises
    ------
    CiuicError
        As `recover` does.
    """
    while True:
        try:
            return step()
        except CiuicError as error:
            recover(model, error)
        step = again


def recover(model: Model, error: CiuicError) -> Recovered:
    """Take a model's parts off the device that failed; its caches must be filled anew.

    Raises
    ------
    CiuicError
        The error itself, if no device is to blame, or only the host, or nothing was there; or a
        `PlacementError` from it, if the parts find no room elsewhere.
    """
    story = error.story
    if story is None or story.device.partition(":")[0] == HOST:
        raise error
    parts = {
        name: weights for name, (on, weights) in _parts(model).items() if on.uri == story.device
    }
    whole_again = _undivide(model, story.device)
    if whole_again or parts:
        model.failed.add(story.device)
    if not parts:
        if not whole_again:
            raise error
        return _recovered(model, error, story, whole_again)
    failed = next(on for on, _ in _parts(model).values() if on.uri == story.device)
    left = {on.uri: on for on, _ in _parts(model).values()}
    left |= {HOST: model.runtime.device(HOST)}
    left = {uri: on for uri, on in left.items() if uri not in model.failed and not on.lost}
    for weights in parts.values():
        for weight in weights_on(weights, failed.kind):
            failed.evict(weight)
    try:
        moves = fail_over(
            [
                Stranded(
                    part=name,
                    nbytes={uri: _nbytes(weights, on, failed) for uri, on in left.items()},
                )
                for name, weights in parts.items()
            ],
            kind=failed.kind,
            survivors=[
                Survivor(device=uri, kind=on.kind, room=on.capacity_bytes - on.used_bytes)
                for uri, on in left.items()
            ],
        )
    except PlacementError as refusal:
        refusal.story = story
        raise refusal from error
    for move in moves:
        _move(model, move.part, failed, left[move.target], as_fpga=move.as_fpga)
    moved = {move.part: move.target for move in moves}
    return _recovered(model, error, story, {**moved, **whole_again})


def _recovered(model: Model, error: CiuicError, story: Story, moved: dict[str, str]) -> Recovered:
    recovered = Recovered(error=str(error), story=story, moved=moved)
    logger.warning("%s", recovered)
    model.recovered.append(recovered)
    return recovered


def _undivide(model: Model, failed: str) -> dict[str, str]:
    """Make matrices whole that a device had a share of; return part -> its layer's device."""
    runtime = model.runtime
    whole: dict[str, str] = {}
    if not runtime.divisions:
        return whole
    for index, layer in enumerate(model.layers):
        home = _device(model, layer.device)
        for role, weight in weights_for(layer, home):
            division = runtime.division(weight)
            if division is None or all(part.device.uri != failed for part in division):
                continue
            for part in division:
                part.device.evict(weight if part.weight is None else part.weight)
            runtime.make_whole(weight)
            whole[f"layer {index} {role}"] = home.uri
            for key in [key for key in model.shared if key[0] == index]:
                if f"{role}.".startswith(f"{key[1]}."):
                    del model.shared[key]
    return whole


def _parts(model: Model) -> dict[str, tuple[Device, LayerWeights]]:
    """Return each layer's device and weights, and the head's."""
    parts = {
        f"layer {index}": (_device(model, layer.device), layer.weights)
        for index, layer in enumerate(model.layers)
    }
    return parts | {HEAD: (_device(model, model.head_device), model.network.head)}


def _device(model: Model, on: Device | str) -> Device:
    """Return a device, though it be lost: it is not opened again."""
    if isinstance(on, str):
        return model.runtime.manager.opened(on) or model.runtime.device(on)
    return on


def _nbytes(weights: LayerWeights, on: Device, failed: Device) -> int:
    """Return the bytes that weights would take on a device, in the formats that they have now."""
    return sum(
        on.weight_bytes(one) for one in weights_on(weights, failed.kind) if not on.holds(one)
    )


def _move(model: Model, part: str, failed: Device, target: Device, *, as_fpga: bool) -> None:
    if part == HEAD:
        model.head_device = target
        return
    layer = model.layers[int(part.removeprefix("layer "))]
    layer.device = target
    if as_fpga:
        keep_formats(layer, failed)
