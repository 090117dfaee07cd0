"""Resident: brings a model's weights to where a plan wants them, and lets the others stream.

With the plan's caps on devices (`limit`), whatever the plan forgot would be an `OutOfMemory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain

from ciuic.devices import Device, Weight
from ciuic.memory.streaming import Streaming
from ciuic.runtime import Runtime

from .converted import named_parts
from .model import Model
from .placed import HOST, Placed
from .plan_report import DeviceResidency
from .progress import Report, silent


@contextmanager
def resident(
    model: Model, residency: Sequence[DeviceResidency], report: Report = silent
) -> Iterator[list[Streaming]]:
    """Load a model, whose layers are placed as they were planned; streams end with the context.

    Parameters
    ----------
    model
        Its weights may be loaded already where they stay.
    residency
        Of the devices that do not hold all of their weights; all others hold theirs.
    report
        Told how many parts have been loaded.

    Yields
    ------
    list of Streaming
        What streams.

    Raises
    ------
    OutOfMemory
        If a device has less room than was planned with.
    """
    streams: list[Streaming] = []
    moving = {one.device: frozenset(one.moving) for one in residency}
    found: dict[tuple[str, str], Weight] = {}
    parts = list(placed_parts(model))
    try:
        for done, (prefix, on, weights) in enumerate(parts):
            report("loading weights", done, len(parts))
            for role, weight in weights:
                home, name = on.home_of(weight), prefix + role
                if name in moving.get(home.uri, ()):
                    found[home.uri, name] = weight
                else:
                    on.hold(weight)
        model.runtime.synchronize()
        report("loading weights", len(parts), len(parts))
        for one in residency:
            device = model.runtime.device(one.device)
            for names, slots in ((one.streamed, one.slots), (one.on_demand, one.expert_slots)):
                here = [found[one.device, name] for name in names]
                if here:
                    streams.append(Streaming(device, here, slots, ahead=names is one.streamed))
        yield streams
    finally:
        for stream in streams:
            stream.close()


@contextmanager
def limit(runtime: Runtime, caps: Mapping[str, int]) -> Iterator[None]:
    """Let devices, by URI or kind, take no more than some bytes meanwhile.

    Not the host: what is mapped from a file counts among its arrays, and need not be in memory.
    """
    before: list[tuple[Device, int]] = []
    try:
        for device in runtime.manager.devices:
            cap = caps.get(device.uri, caps.get(device.kind))
            if cap is not None and not device.host_memory:
                before.append((device, device.capacity_bytes))
                device.capacity_bytes = min(cap, device.capacity_bytes)
        yield
    finally:
        for device, capacity in before:
            device.capacity_bytes = capacity


def placed_parts(
    model: Model,
) -> Iterator[tuple[str, Placed, Iterator[tuple[str, Weight]]]]:
    """Yield each part's name, where it runs, and its weights in the form for that device."""
    devices = chain([HOST], (layer.device for layer in model.layers), [model.head_device])
    for (prefix, weights), device in zip(named_parts(model.network), devices, strict=True):
        on = Placed(model.runtime, device)
        yield prefix, on, iter(weights.on(on.device.kind))
