"""calibrate: what it measures is what tasks take, and what cannot be measured is left out."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ciuic import Runtime, calibration, cli
from ciuic.calibration import Kind, calibrate
from ciuic.errors import DeviceError
from ciuic.scheduler import cost_store
from ciuic.scheduler.cost_store import CostStore

from .standin import StandIn

SLOW = 0.005  # seconds of a task
KINDS = [
    Kind("linear", ((1, 32), (32, 16)), {}),
    Kind("linear_int4", ((1, 32), (32, 16)), {}),
    Kind("linear_float32", ((2, 32), (32, 16)), {}),
    Kind("rms_norm", ((2, 8), (8,)), {"eps": 1e-6}),
    Kind("rope", ((2, 2, 4), (2,)), {"theta": 1e4}),
    Kind("attention", ((1, 2, 4), (8, 2, 4), (8, 2, 4)), {"offset": 7, "scale": 1.0}),
]


ALL = list(calibration.kinds())


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure small tasks, for a moment."""
    monkeypatch.setattr(calibration, "kinds", lambda: iter(KINDS))
    monkeypatch.setattr(calibration, "SECONDS", 0.0)
    monkeypatch.setattr(calibration, "LINK_BYTES", (1 << 10, 1 << 18))


def ignore(_what: str, _done: int, _total: int) -> None:
    """Take no note of progress."""


def test_tasks_take_what_they_take() -> None:
    with StandIn(seconds=SLOW) as device:
        found = calibrate(Runtime(), device, ignore)
        assert [task.op for task in found.tasks] == [kind.op for kind in KINDS]
        assert [task.offset for task in found.tasks] == [0, 0, 0, 0, 0, 7]
        assert all(SLOW <= task.seconds < 20 * SLOW for task in found.tasks)
        assert found.link is not None
        assert found.link.latency >= 0
        assert 0 < found.link.seconds_per_byte < 1e-6
        assert device.used_bytes == 0  # nothing stays


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    with StandIn() as device:
        calibrate(Runtime(), device, lambda *one: told.append(one))
    assert told == [("calibrating standin", done, 6) for done in range(1, 7)]


def test_operators_without_a_kernel_and_broken_ones_are_left_out() -> None:
    with StandIn(without=["rope"], broken=["linear"]) as device:
        found = calibrate(Runtime(), device, ignore)
    assert {task.op for task in found.tasks} == {kind.op for kind in KINDS} - {"rope", "linear"}


def test_device_that_fails_at_everything_is_told() -> None:
    with StandIn(broken=[kind.op for kind in KINDS]) as device:
        with pytest.raises(DeviceError, match=r"^attention is broken$"):
            calibrate(Runtime(), device, ignore)


def test_what_would_take_long_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    twice = [Kind("linear", ((t, 32), (32, 16)), {}) for t in (1, 2)]
    monkeypatch.setattr(calibration, "kinds", lambda: iter(twice))
    monkeypatch.setattr(calibration, "LONG", SLOW / 2)
    with StandIn(seconds=SLOW) as device:
        found = calibrate(Runtime(), device, ignore)
    assert [task.inputs[0] for task in found.tasks] == [(1, 32)]


@pytest.mark.parametrize("op", sorted({kind.op for kind in ALL}))
def test_smallest_kind_of_each_operator_runs_on_the_cpu(op: str) -> None:
    kind = next(kind for kind in ALL if kind.op == op)
    runtime = Runtime()
    assert calibration._seconds(runtime, runtime.device("cpu"), kind) > 0


def test_command_keeps_what_it_found(
    capsys: pytest.CaptureFixture[str], calibration_file: Path
) -> None:
    assert cli.main(["calibrate", "--device", "cpu", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["file"] == str(calibration_file)
    assert [row["op"] for row in printed["tasks"]] == [kind.op for kind in KINDS]
    assert printed["links"] == {}  # the CPU's memory is the host's
    cpu = Runtime().device("cpu")
    stored = CostStore.load().of(cpu)
    assert stored is not None
    assert [task.seconds for task in stored.tasks] == [row["seconds"] for row in printed["tasks"]]
    # The next runtime knows it.
    fresh = Runtime()
    assert fresh.costs.is_measured(cpu, "linear", [(1, 32), (32, 16)])
    assert cli.main(["calibrate", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[:2] == ["device", "operator"]


def test_devices_that_are_not_here_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["calibrate", "--device", "cpu", "--device", "npu"]) == 2
    assert capsys.readouterr().err.startswith("ciuic: error: no device 'npu': ")
    assert not cost_store.store_path().exists()


def test_cache_folder_that_cannot_be_made_is_told_before_work(
    capsys: pytest.CaptureFixture[str], calibration_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calibration_file.parent.write_text("a file where the folder must be")
    monkeypatch.setattr(calibration, "calibrate", lambda *_: pytest.fail("it measured"))
    assert cli.main(["calibrate", "--device", "cpu"]) == 2
    assert re.match(
        r"^ciuic: error: the cache folder .*/calibration cannot be made: ", capsys.readouterr().err
    )
