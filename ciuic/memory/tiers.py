"""MemoryHierarchy: which weights lie in which tier of memory, and moving them.

Covers weights that are brought to a device to stay. Activations, caches and staging belong to the
devices themselves (`ciuic.devices.base`), whose accounting is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum

from ciuic.devices import Device, DeviceManager, Weight
from ciuic.errors import DeviceNotFound, OutOfMemory, UsageError
from ciuic.quantize import QuantizedMatrix
from ciuic.tensor import CiuicTensor

Weights = Weight | Iterable[Weight | tuple[str, Weight]]


class Tier(Enum):
    """Where bytes can lie, fastest first."""

    ON_CHIP = "on-chip"
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, kw_only=True)
class TierUsage:
    """One memory: its tier, whose it is, and bytes."""

    tier: Tier
    device: str
    used_bytes: int
    capacity_bytes: int


class MemoryHierarchy:
    """Brings weights to devices, within caps.

    Parameters
    ----------
    manager
        Opens devices; a new one by default. Devices are shared within the process, so weights
        that are moved here are found by every runtime.
    caps
        Device URI -> bytes that its arrays may take, where that is less than the device has.
    """

    def __init__(
        self, manager: DeviceManager | None = None, caps: Mapping[str, int] | None = None
    ) -> None:
        self._manager = manager or DeviceManager()
        self._caps = dict(caps or {})

    def is_in_device_memory(self, weights: Weights, device: Device | str | None = None) -> bool:
        """Return whether all of the weights lie on a device: the one named, or any but the host.

        Parameters
        ----------
        weights
            A tensor, a `QuantizedMatrix`, or several of them, such as ``layer.weights``.
        device
            A device, a URI, or a kind such as "GPU".
        """
        listed = _listed(weights)
        devices = (
            [known for known in self._manager.devices if not known.host_memory]
            if device is None
            else [self._device(device)]
        )
        return any(all(known.holds(weight) for weight in listed) for known in devices)

    def move_to_device(self, weights: Weights, device: Device | str) -> None:
        """Bring weights to a device, where they stay; those already there are left alone.

        Raises
        ------
        OutOfMemory
            If they do not fit; then nothing has moved.
        DeviceNotFound
            If there is no such device here.
        """
        target = self._device(device)
        missing = [weight for weight in _listed(weights) if not target.holds(weight)]
        wanted = sum(target.weight_bytes(weight) for weight in missing)
        capacity = min(target.capacity_bytes, self._caps.get(target.uri, target.capacity_bytes))
        available = capacity - target.used_bytes
        if wanted > available:
            raise OutOfMemory(target.uri, wanted=wanted, available=available, capacity=capacity)
        for weight in missing:
            target.hold(weight)

    def evict(self, weights: Weights, device: Device | str) -> None:
        """Take weights off a device; their originals on the host or in a file remain."""
        target = self._device(device)
        for weight in _listed(weights):
            target.evict(weight)

    def usage(self) -> list[TierUsage]:
        """Return the memory of each open device."""
        return [
            TierUsage(
                tier=Tier.HOST if device.host_memory else Tier.DEVICE,
                device=device.uri,
                used_bytes=device.used_bytes,
                capacity_bytes=min(
                    device.capacity_bytes, self._caps.get(device.uri, device.capacity_bytes)
                ),
            )
            for device in self._manager.devices
        ]

    def _device(self, device: Device | str) -> Device:
        if isinstance(device, Device):
            return device
        if device.isupper():
            found = self._manager.get_devices(device)
            if not found:
                raise DeviceNotFound(device, f"there is no {device} here")
            return found[0]
        return self._manager.open(device)


def _listed(weights: Weights) -> list[Weight]:
    if isinstance(weights, QuantizedMatrix | CiuicTensor):
        return [weights]
    listed = [item[1] if isinstance(item, tuple) else item for item in weights]
    for weight in listed:
        if not isinstance(weight, QuantizedMatrix | CiuicTensor):
            raise UsageError(
                f"weight must be a CiuicTensor or QuantizedMatrix, not {type(weight).__name__}"
            )
    return listed
