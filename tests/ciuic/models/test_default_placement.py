"""`ciuic run` without --place: the planner's choice among real devices, and why."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ciuic.cli import main
from ciuic.devices import Device, Roofline
from ciuic.devices import manager as manager_module
from ciuic.devices.manager import DeviceManager, scheme_of

from ..standin import StandIn
from .conftest import Write

FAST = Roofline(1e13, 1e13, 1e13, 1e-9)
SLOW = Roofline(1e6, 1e6, 1e6, 1e-2)


class RealGpu(StandIn):
    """A GPU that is taken for a real one."""

    emulated = False


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> dict[str, Roofline]:
    """Have GPUs here that the test names, by URI."""
    found: dict[str, Roofline] = {}

    class Scheme:
        @staticmethod
        def open_device(uri: str) -> Device:
            device = RealGpu(uri)
            device.roofline = found[uri]
            return device

    monkeypatch.setattr(
        manager_module, "scheme_of", lambda uri: Scheme if uri in found else scheme_of(uri)
    )
    monkeypatch.setattr(DeviceManager, "list_uris", lambda *_, **__: ["cpu", *found])
    return found


def run(path: str, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["run", path, "--prompt", "the", "--max-tokens", "4", "--json", *more]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def test_alone_the_host_does_it_all(
    small_model: Write, here: dict[str, Roofline], capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(str(small_model(60)), capsys)
    assert set(report["placement"].values()) == {"cpu"}
    assert report["reasons"] == {"*": "cpu is the only device here that is not emulated"}


@pytest.mark.parametrize(("roofline", "chosen"), [(FAST, "gpu:fast"), (SLOW, "cpu")])
def test_the_faster_device_gets_the_layers(
    small_model: Write,
    here: dict[str, Roofline],
    capsys: pytest.CaptureFixture[str],
    roofline: Roofline,
    chosen: str,
) -> None:
    here["gpu:fast" if roofline is FAST else "gpu:slow"] = roofline
    report = run(str(small_model(60)), capsys, "--check")
    assert report["check"]["same_tokens"]
    assert set(report["placement"].values()) == {chosen}
    assert report["reasons"].keys() == {"layers 0-1", "head"}
    assert all("least time of the chain" in why for why in report["reasons"].values())


def test_what_the_user_asks_for_stays(
    small_model: Write, here: dict[str, Roofline], capsys: pytest.CaptureFixture[str]
) -> None:
    here["gpu:x"] = FAST
    report = run(str(small_model(60)), capsys, "--place", "0=gpu:x")
    assert report["placement"] == {"0": "gpu:x", "1": "cpu", "head": "cpu"}
    assert report["reasons"] == {"*": "as asked"}
