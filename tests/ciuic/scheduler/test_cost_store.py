"""CostStore: calibrations survive the process, and hold for one machine and device only."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ciuic.scheduler import cost_store
from ciuic.scheduler.cost import Calibrated, Calibration, Link
from ciuic.scheduler.cost_store import CostStore, stored_calibration

MEASURED = Calibration(
    (
        Calibrated("add", ((4, 8), (4, 8)), 0, 1e-5, 2e-5),
        Calibrated("attention", ((1, 2, 4), (8, 2, 4), (8, 2, 4)), 7, 1e-4, 1e-3),
    ),
    Link(1e-5, 1e-9),
)


def device(fingerprint: str = "driver 1") -> Any:
    return SimpleNamespace(uri="gpu", fingerprint=fingerprint)


def saved(calibration: Calibration = MEASURED) -> Path:
    store = CostStore.load()
    store.put(device(), calibration)
    return store.save()


@pytest.mark.parametrize("calibration", [MEASURED, Calibration(()), Calibration(MEASURED.tasks)])
def test_what_was_measured_is_found_again(calibration: Calibration) -> None:
    assert stored_calibration(device()) is None
    saved(calibration)
    assert stored_calibration(device()) == calibration


def test_another_driver_has_no_calibration() -> None:
    saved()
    assert stored_calibration(device("driver 2")) is None


def test_another_machine_has_no_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    saved()
    monkeypatch.setattr(cost_store, "machine_fingerprint", lambda: "elsewhere")
    assert stored_calibration(device()) is None


def test_devices_are_kept_beside_each_other() -> None:
    saved()
    store = CostStore.load()
    store.put(SimpleNamespace(uri="other", fingerprint="x"), Calibration(()))  # type: ignore[arg-type]
    store.save()
    assert set(CostStore.load().devices) == {"gpu", "other"}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 0},
        {"devices": []},
        {"devices": {"gpu": {}}},
        {"devices": {"gpu": {"fingerprint": "driver 1", "tasks": [{}], "link": None}}},
        {"devices": {"gpu": {"fingerprint": "driver 1", "tasks": [], "link": {"latency": 1}}}},
    ],
)
def test_files_that_cannot_be_understood_are_as_good_as_none(change: Any) -> None:
    path = saved()
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert stored_calibration(device()) is None
    path.write_text("{")
    assert stored_calibration(device()) is None


@pytest.mark.parametrize("figure", [-1, float("nan"), float("inf"), "soon", None])
@pytest.mark.parametrize("where", ["seconds", "offset", "latency", "seconds_per_byte"])
def test_impossible_figures_are_not_believed(where: str, figure: object) -> None:
    path = saved()
    content = json.loads(path.read_text())
    found = content["devices"]["gpu"]
    (found["tasks"][0] if where in ("seconds", "offset") else found["link"])[where] = figure
    path.write_text(json.dumps(content))
    assert stored_calibration(device()) is None
