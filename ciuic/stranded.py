"""Stranded layers: what is done about those whose device has failed, before they go elsewhere.

For models (`ciuic.models.recovery`) and chains of layers (`TaskScheduler`, `BatchPipeline`) alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ciuic.devices import Device
from ciuic.errors import CiuicError
from ciuic.layer_times import Layer
from ciuic.memory.tiers import weights_on
from ciuic.scheduler.failover import FPGA
from ciuic.scheduler.problem import HOST
from ciuic.tensor import CiuicTensor


def failed_device(error: CiuicError, devices: Mapping[str, Device]) -> Device | None:
    """Return which of the devices an error is the fault of; None if of none, or of the host."""
    if error.story is None or error.story.device.partition(":")[0] == HOST:
        return None
    return devices.get(error.story.device)


def release(layers: Iterable[Layer], inputs: Iterable[CiuicTensor], device: Device) -> None:
    """Take layers' weights, and what went into them, off a device."""
    for layer in layers:
        for weight in weights_on(layer.weights, device.kind):
            device.evict(weight)
    for tensor in inputs:
        device.evict(tensor)


def keep_formats(layer: Any, failed: Device) -> None:
    """Let a model's layer compute wherever it goes in the number formats of the FPGA it was on.

    Other layers have no formats to choose from.
    """
    if failed.kind != FPGA or not hasattr(layer, "as_fpga") or layer.as_fpga:
        return
    layer.attention = layer.attention or failed.attention
    layer.as_fpga = True
