"""DeviceManager: finding, opening, sharing and closing."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator

import pytest

from ciuic.devices import DeviceManager, manager
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.manager import open_devices
from ciuic.errors import DeviceNotFound, UsageError


class ToyDevice(CpuDevice):
    """A device that can be opened many times over."""

    kind = "TPU"
    opened = 0

    def __init__(self, uri: str) -> None:
        super().__init__()
        self.uri = uri
        ToyDevice.opened += 1


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install the scheme ``toy``, whose one device has the names ``toy`` and ``toy:0``."""
    module = types.ModuleType("toy_device")

    def open_device(_uri: str) -> ToyDevice:
        return ToyDevice("toy:0")

    def list_devices(*, emulated: bool = True) -> list[str]:
        return ["toy:0"] if emulated else []

    open_device.__module__ = "toy_device"
    module.__dict__.update(KIND="TPU", open_device=open_device, list_devices=list_devices)
    monkeypatch.setitem(sys.modules, "toy_device", module)
    entry = manager.importlib.metadata.EntryPoint("toy", "toy_device:open_device", manager.GROUP)
    monkeypatch.setitem(manager._entry_points(), "toy", entry)
    ToyDevice.opened = 0
    yield
    manager._scheme.cache_clear()


def test_the_cpu_is_found() -> None:
    with DeviceManager() as devices:
        (cpu,) = devices.get_devices("CPU")
        assert (cpu.uri, cpu.kind, cpu.emulated) == ("cpu", "CPU", False)
        assert devices.open("cpu") is cpu
        assert devices.devices == [cpu]


def test_a_kind_without_devices_is_empty() -> None:
    assert DeviceManager().get_devices("TPU") == []


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    devices = DeviceManager()
    with pytest.raises(UsageError, match=r"^kind must be one of CPU, GPU, FPGA, TPU, not 'XPU'$"):
        devices.get_devices("XPU")
    message = "no device 'warp:9': the name must begin with cpu, fpga, opencl"
    with pytest.raises(DeviceNotFound, match=f"^{message}$"):
        devices.open("warp:9")
    with pytest.raises(DeviceNotFound, match=re.escape("no device 'cpu:x': the CPU must be 'cpu'")):
        devices.open("cpu:x")


@pytest.mark.usefixtures("toys")
def test_managers_share_a_device_until_the_last_closes() -> None:
    one, two = DeviceManager(), DeviceManager()
    device = one.open("toy")
    assert two.open("toy:0") is device
    assert two.get_devices("TPU") == [device]
    assert ToyDevice.opened == 1
    assert device in open_devices()
    one.close()
    assert not device.closed
    two.close()
    assert device.closed
    assert device not in open_devices()


@pytest.mark.usefixtures("toys")
def test_a_device_that_was_closed_is_opened_again() -> None:
    with DeviceManager() as devices:
        first = devices.open("toy:0")
        first.close()
        second = devices.open("toy:0")
        assert second is not first
        assert not second.closed


@pytest.mark.usefixtures("toys")
def test_emulated_devices_can_be_left_out() -> None:
    devices = DeviceManager()
    assert "toy:0" in devices.list_uris()
    assert devices.list_uris("TPU") == ["toy:0"]
    assert devices.list_uris("TPU", emulated=False) == []
    assert "cpu" in devices.list_uris(emulated=False)
    assert ToyDevice.opened == 0
