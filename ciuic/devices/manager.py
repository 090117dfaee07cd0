"""DeviceManager: finds, opens and closes devices.

Devices come from the entry-point group ``ciuic.devices``: each entry names a scheme and points at
``open_device(uri) -> Device``; beside it in the same module are ``list_devices`` (`ListDevices`)
and ``KIND``. A device is open once in a process: managers that open the
same URI share it, and it closes when the last of them does.
"""

from __future__ import annotations

import atexit
import importlib.metadata
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import NamedTuple, Protocol

from ciuic.errors import CiuicError, DeviceNotFound, UsageError

from .base import KINDS, Device, Kind

GROUP = "ciuic.devices"


class ListDevices(Protocol):
    """Finds the devices of a scheme."""

    def __call__(self, *, emulated: bool = True) -> list[str]:
        """Return the URIs available here; without ``emulated``, those of real hardware only."""


class Scheme(NamedTuple):
    """One way to reach devices: what stands before the colon of a URI."""

    name: str
    kind: Kind
    open_device: Callable[[str], Device]
    list_devices: ListDevices


@lru_cache(maxsize=1)
def _entry_points() -> dict[str, importlib.metadata.EntryPoint]:
    found = importlib.metadata.entry_points(group=GROUP)
    return {entry.name: entry for entry in sorted(found, key=lambda entry: entry.name)}


@lru_cache
def _scheme(name: str) -> Scheme:
    open_device = _entry_points()[name].load()
    module = sys.modules[open_device.__module__]
    return Scheme(name, module.KIND, open_device, module.list_devices)


def schemes() -> list[Scheme]:
    """Return the installed schemes, sorted by name."""
    return [_scheme(name) for name in _entry_points()]


def scheme_of(uri: str) -> Scheme:
    """Return the scheme of a URI.

    Raises
    ------
    DeviceNotFound
        If no such scheme is installed.
    """
    name = uri.partition(":")[0]
    if name not in _entry_points():
        raise DeviceNotFound(uri, f"the name must begin with {', '.join(_entry_points())}")
    return _scheme(name)


class DeviceManager:
    """Opens devices by URI or kind; a context manager that closes what it opened."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] = {}

    def __enter__(self) -> DeviceManager:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def list_uris(self, kind: str | None = None, *, emulated: bool = True) -> list[str]:
        """Return the URIs of the devices available here; none is opened.

        Parameters
        ----------
        kind
            One of `KINDS`, or None for all.
        emulated
            Whether to include devices that stand in for hardware.

        Raises
        ------
        UsageError
            If there is no such kind.
        """
        if kind is not None and kind not in KINDS:
            raise UsageError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        return [
            uri
            for scheme in schemes()
            if kind in (None, scheme.kind)
            for uri in scheme.list_devices(emulated=emulated)
        ]

    def get_devices(self, kind: str) -> list[Device]:
        """Return the devices of a kind ("CPU", "GPU", "FPGA" or "TPU"), open.

        Raises
        ------
        UsageError
            If there is no such kind.
        """
        return [self.open(uri) for uri in self.list_uris(kind)]

    def open(self, uri: str) -> Device:
        """Return the device of a URI.

        Raises
        ------
        DeviceNotFound
            If there is no such device here.
        """
        device = self._devices.get(uri)
        if device is None or device.closed or device.lost:
            device = self._devices[uri] = _open.acquire(uri, self)
        return device

    def opened(self, uri: str) -> Device | None:
        """Return what a URI was opened as, though it be lost; None if it was not opened."""
        return self._devices.get(uri)

    @property
    def devices(self) -> list[Device]:
        """The devices that this manager has open."""
        return list({id(device): device for device in self._devices.values()}.values())

    def close(self) -> None:
        """Close the devices that no other manager uses."""
        self._devices.clear()
        _open.release(self)


def open_devices() -> list[Device]:
    """Return the devices that any manager of this process has open."""
    return _open.devices()


class _OpenDevices:
    """The devices open in this process, and which managers use them."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._devices: dict[str, Device] = {}  # by URI, also by other names of the same device
        self._users: dict[int, set[int]] = {}  # id of a device -> ids of managers

    def acquire(self, uri: str, user: DeviceManager) -> Device:
        with self._lock:
            device = self._devices.get(uri)
            if device is not None and device.lost:  # its users have an error of it already
                self._forget(device)
                device.close(cancel=True)
                device = None
            if device is None or device.closed:
                device = scheme_of(uri).open_device(uri)
                twin = self._devices.get(device.uri)
                if twin is not None and not twin.closed:
                    device.close()
                    device = twin
                self._devices[uri] = self._devices[device.uri] = device
            self._users.setdefault(id(device), set()).add(id(user))
            return device

    def release(self, user: DeviceManager) -> None:
        with self._lock:
            for device in set(self._devices.values()):
                users = self._users.get(id(device), set())
                users.discard(id(user))
                if not users:
                    self._forget(device)
                    device.close()

    def devices(self) -> list[Device]:
        with self._lock:
            found = {id(device): device for device in self._devices.values()}
        return [device for device in found.values() if not device.closed]

    def cancel(self) -> None:
        with self._lock:
            for device in set(self._devices.values()):
                self._forget(device)
                device.close(cancel=True)

    def _forget(self, device: Device) -> None:
        self._users.pop(id(device), None)
        for uri in [uri for uri, known in self._devices.items() if known is device]:
            del self._devices[uri]


_open = _OpenDevices()
atexit.register(_open.cancel)  # a process that ends must not wait for queued work


def availability() -> dict[str, str | None]:
    """Return for each scheme why it has no device here, or None if it has one."""
    reasons: dict[str, str | None] = {}
    for scheme in schemes():
        try:
            if not scheme.list_devices():
                scheme.open_device(scheme.name).close()  # which says why not
            reasons[scheme.name] = None
        except CiuicError as error:
            reasons[scheme.name] = str(error)
    return reasons
