"""MemoryHierarchy: which weights lie in which tier of memory, and moving them.

Covers weights that are brought to a device to stay, or to pass through it. Activations, caches and
staging belong to the devices themselves (`ciuic.devices.base`), whose accounting is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, runtime_checkable

from ciuic.devices import KINDS, Device, DeviceManager, Kind, Weight
from ciuic.devices.manager import open_devices
from ciuic.errors import DeviceNotFound, OutOfMemory, UsageError
from ciuic.quantize_int4 import Quantized
from ciuic.tensor import CiuicTensor

from .residency import Residency, Use, plan_residency
from .streaming import Streaming


@runtime_checkable
class WeightForms(Protocol):
    """Weights whose form depends on the device, such as INT8 on FPGAs only."""

    def on(self, kind: Kind, /) -> Iterable[tuple[str, Weight]]:
        """Return names and weights in the form that a kind of device takes."""


Weights = Weight | WeightForms | Mapping[str, Weight] | Iterable[Weight | tuple[str, Weight]]


class Tier(Enum):
    """Where bytes can lie, fastest first."""

    ON_CHIP = "on-chip"
    DEVICE = "device"
    HOST = "host"
    DISK = "disk"


@dataclass(frozen=True, kw_only=True)
class TierUsage:
    """Memory of one device, or a file: its tier, and bytes."""

    tier: Tier
    device: str
    used_bytes: int
    capacity_bytes: int


class MemoryHierarchy:
    """Brings weights to devices, within caps.

    Devices are shared within the process, so weights that are moved here are found by every
    runtime, and those that a runtime has brought are found here.

    Parameters
    ----------
    manager
        Opens devices; a new one by default.
    caps
        Device, by URI or kind -> bytes that it may have in use after weights are moved there;
        less than it has.

    Raises
    ------
    UsageError
        If a cap is no positive number of bytes.
    DeviceNotFound
        If a cap is for a device that is not here.
    """

    def __init__(
        self, manager: DeviceManager | None = None, caps: Mapping[str, int] | None = None
    ) -> None:
        self._manager = manager or DeviceManager()
        self._caps: dict[str, int] = {}
        for device, cap in (caps or {}).items():
            if cap <= 0:
                raise UsageError(f"cap of {device} must be a positive number of bytes, not {cap!r}")
            self._caps[self._device(device).uri] = cap

    def is_in_device_memory(self, weights: Weights, device: Device | str | None = None) -> bool:
        """Return whether all of the weights lie on a device: the one named, or any but the host.

        Parameters
        ----------
        weights
            A tensor, a quantized matrix, or several of them, such as ``layer.weights``.
        device
            A device, a URI, or a kind such as "GPU".
        """
        devices = (
            [known for known in open_devices() if not known.host_memory]
            if device is None
            else [self._device(device)]
        )
        return any(
            all(known.holds(weight) for weight in weights_on(weights, known.kind))
            for known in devices
        )

    def move_to_device(self, weights: Weights, device: Device | str) -> None:
        """Bring weights to a device, where they stay; those already there are left alone.

        Returns when they have arrived. Their originals on the host remain.

        Raises
        ------
        OutOfMemory
            If they do not fit; then nothing has moved.
        DeviceNotFound
            If there is no such device here.
        """
        target = self._device(device)
        missing = missing_weights(weights, target)
        wanted = sum(target.weight_bytes(weight) for weight in missing)
        capacity = self._capacity(target)
        available = max(0, capacity - target.used_bytes)
        if wanted > available:
            raise OutOfMemory(target.uri, wanted=wanted, available=available, capacity=capacity)
        try:
            for weight in missing:
                target.hold(weight)
            target.synchronize()
            for weight in missing:
                if (error := target.hold(weight).storage.error) is not None:
                    raise error
        except BaseException:
            self.evict(missing, target)
            raise

    @contextmanager
    def streamed_to_device(self, weights: Weights, device: Device | str) -> Iterator[Residency]:
        """Let weights be used on a device that need not hold them all: some stay, others stream.

        Those that stay are brought at once and remain afterwards; the others come from the host,
        ahead of their use, while the context lasts.

        Parameters
        ----------
        weights
            In the order in which they are used, again and again. Quantized matrices may stream.
        device
            A device, a URI, or a kind such as "GPU".

        Yields
        ------
        Residency
            What is where; its keys count the weights.

        Raises
        ------
        OutOfMemory
            If not even two of them at a time fit beside those that cannot stream; nothing has moved
            then.
        DeviceNotFound
            If there is no such device here.
        """
        target = self._device(device)
        missing = missing_weights(weights, target)
        room = max(0, self._capacity(target) - target.used_bytes)
        uses = [
            Use(key=i, nbytes=target.weight_bytes(w), streams=isinstance(w, Quantized))
            for i, w in enumerate(missing)
        ]
        link = target.roofline.link_bytes_per_second
        found = plan_residency(uses, room, tier=target.uri, link_bytes_per_second=link)
        staying = {*found.pinned}
        self.move_to_device([w for i, w in enumerate(missing) if i in staying], target)
        moving = [w for i, w in enumerate(missing) if i not in staying]
        stream = Streaming(target, moving, found.slots) if moving else None
        try:
            yield found
        finally:
            if stream is not None:
                stream.close()

    def evict(self, weights: Weights, device: Device | str) -> None:
        """Take weights off a device; their originals on the host or in a file remain."""
        target = self._device(device)
        for weight in weights_on(weights, target.kind):
            target.evict(weight)

    def usage(self) -> list[TierUsage]:
        """Return the memory of each device that is open in this process, by tier.

        Scratchpads on chip are in use as a whole. On disk are the files that weights stream from.
        """
        return [row for device in open_devices() for row in self._usage_of(device)]

    def _usage_of(self, device: Device) -> Iterator[TierUsage]:
        def row(tier: Tier, name: str, used: int, capacity: int) -> TierUsage:
            return TierUsage(tier=tier, device=name, used_bytes=used, capacity_bytes=capacity)

        if device.on_chip_bytes:
            yield row(Tier.ON_CHIP, device.uri, device.on_chip_bytes, device.on_chip_bytes)
        tier = Tier.HOST if device.host_memory else Tier.DEVICE
        yield row(tier, device.uri, device.used_bytes, self._capacity(device))
        for path, nbytes in device.files().items():
            yield row(Tier.DISK, str(path), nbytes, nbytes)

    def _capacity(self, device: Device) -> int:
        return min(device.capacity_bytes, self._caps.get(device.uri, device.capacity_bytes))

    def _device(self, device: Device | str) -> Device:
        if isinstance(device, Device):
            return device
        if device not in KINDS:
            return self._manager.open(device)
        uris = self._manager.list_uris(device)
        if not uris:
            raise DeviceNotFound(device, f"there is no {device} here")
        return self._manager.open(uris[0])


def weights_on(weights: Weights, kind: Kind) -> Iterator[Weight]:
    """Yield weights one by one, in the form that a kind of device takes.

    Raises
    ------
    UsageError
        If something among them is no weight.
    """
    if isinstance(weights, WeightForms):
        weights = weights.on(kind)
    if isinstance(weights, Quantized | CiuicTensor):
        yield weights
        return
    if not isinstance(weights, Iterable):
        raise UsageError(f"weights must be weights, not {type(weights).__name__}")
    for item in weights.values() if isinstance(weights, Mapping) else weights:
        weight = item[1] if isinstance(item, tuple) else item
        if not isinstance(weight, Quantized | CiuicTensor):
            raise UsageError(
                f"weight must be a CiuicTensor or quantized matrix, not {type(weight).__name__}"
            )
        yield weight


def missing_weights(weights: Weights, device: Device) -> list[Weight]:
    """Return the weights that do not lie on a device, each once, in the form that it takes."""
    found = {id(w): w for w in weights_on(weights, device.kind) if not device.holds(w)}
    return list(found.values())
