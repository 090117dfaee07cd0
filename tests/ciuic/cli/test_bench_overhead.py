"""`ciuic bench overhead`: tasks go through the whole runtime, and each is counted."""

from __future__ import annotations

import json

import pytest

from ciuic import cli
from ciuic.cli import bench_overhead
from ciuic.cli.bench_overhead import measure

Capture = pytest.CaptureFixture[str]


def test_json_is_as_promised(capsys: Capture) -> None:
    assert cli.main(["bench", "overhead", "--tasks", "300", "--json"]) in (0, 1)
    found = json.loads(capsys.readouterr().out)
    assert found.keys() == {"tasks", "microseconds_per_task"}
    assert found["tasks"] == 300
    assert found["microseconds_per_task"] > 0


def test_every_task_runs() -> None:
    reports: list[tuple[int, int]] = []

    def report(_what: str, done: int, total: int) -> None:
        reports.append((done, total))

    measure(2500, report)
    assert reports == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_bound_that_is_missed_is_told(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_overhead, "BOUND", 0.0)
    assert cli.main(["bench", "overhead", "--tasks", "100"]) == 1
    assert capsys.readouterr().out.split()[:4] == ["tasks", "us/task", "at", "most"]


def test_no_tasks_are_refused(capsys: Capture) -> None:
    assert cli.main(["bench", "overhead", "--tasks", "0"]) == 2
    assert capsys.readouterr().err == "ciuic: error: --tasks must be at least 1, not 0\n"
