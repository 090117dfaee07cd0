"""`ciuic bench placement`: what it prints, and that figures beyond their bounds are told."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from ciuic import cli
from ciuic.cli import bench_placement
from ciuic.cli.bench_placement import expert_problem

pytest.importorskip("scipy", reason="needs scipy: python -m pip install 'ciuic[plan]'")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure a few instances, and no experts, which take seconds."""
    monkeypatch.setattr(bench_placement, "INSTANCES", 3)
    monkeypatch.setattr(bench_placement, "CHAINS", 1)
    monkeypatch.setattr(bench_placement, "_seconds_of_experts", lambda *_: 1.0)


def test_json_is_as_promised(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "placement", "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    gap = {"instances": 3, "worst_gap": 0.0}
    assert found == {
        "chains": gap,
        "dags": gap,
        "seconds_61_layers": pytest.approx(0.5, abs=0.5),
        "seconds_58x256_experts": 1.0,
    }


def test_bound_that_is_missed_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_placement, "dag_optimum", lambda _: 1e-9)
    assert cli.main(["bench", "placement"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["what", "found", "at", "most"]
    assert lines[2].split() == ["worst", "gap", "of", "3", "chains", "0", "0.02"]


def test_experts_are_those_of_a_large_model() -> None:
    problem = expert_problem(np.random.default_rng(0))
    assert [len(parts) for parts in problem.stages] == [256] * 58
    seconds = sum(part.seconds["cpu"] for part in problem.stages[0])
    assert seconds == pytest.approx(8e-3)  # 8 experts a token
