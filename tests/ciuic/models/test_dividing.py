"""The planner divides matrices over devices where that takes less time, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.models import dividing
from ciuic.models.plan import plan_model
from ciuic.models.plan_report import ModelPlan, placement_of
from ciuic.models.planner import PlanRequest
from ciuic.scheduler.placement import parse_placement

from . import small_deepseek, small_dense

LARGE = "deepseek-r1-distill-qwen-1.5b"
BOTH = ("cpu", "cpu:1")  # equal, beside each other
FPGA = "fpga:emulated?config=sim"


def planned(model: str | Path, **how: Any) -> ModelPlan:
    with DeviceManager() as manager:
        return plan_model(PlanRequest(model=model, **how), manager)


def used(plan: ModelPlan) -> dict[str, int]:
    return {row.device: row.total_bytes for row in plan.memory}


def test_two_equal_devices_share_large_matrices() -> None:
    how: dict[str, Any] = {"context": 300, "prompt_tokens": 200}
    whole = planned(LARGE, devices=["cpu"], **how)
    plan = planned(LARGE, devices=BOTH, **how)
    (layers, head) = plan.placement
    assert layers.shared.keys() >= {"gate", "up", "down"}
    assert not head.shared
    for role, uris in layers.shared.items():
        assert sorted(uris) == sorted(BOTH)
        assert f"; {role}: columns 0-" in layers.reason
    assert "ms less a token)" in layers.reason
    best = min(one.total_seconds for one in plan.single_devices)
    assert best == pytest.approx(whole.prediction.total_seconds)
    assert 0.5 * best < plan.prediction.total_seconds < 0.8 * best
    (weights,) = (row.nbytes["weights"] for row in whole.memory if row.device == "cpu")
    shared = {row.device: row.nbytes["weights"] for row in plan.memory if row.device in BOTH}
    assert sum(shared.values()) == pytest.approx(weights, rel=1e-3)
    assert plan.size == whole.size
    json.dumps(plan.as_dict())
    # As the command takes it, it is the same plan.
    again = planned(LARGE, place=placement_of(plan), **how)
    assert again.prediction.total_seconds == pytest.approx(plan.prediction.total_seconds, rel=1e-3)
    assert used(again) == pytest.approx(used(plan), rel=1e-2)


@pytest.mark.parametrize("cap", [10**8, 3 * 10**8])
def test_shares_keep_to_caps(cap: int) -> None:
    plan = planned(LARGE, devices=BOTH, context=300, prompt_tokens=200, caps={"cpu:1": cap})
    assert plan.fits
    assert used(plan)["cpu:1"] <= cap
    best = min(one.total_seconds for one in plan.single_devices if one.fits)
    assert plan.prediction.total_seconds <= best


@pytest.mark.parametrize("model", ["deepseek-tiny", "small"])
def test_small_matrices_stay_whole(tmp_path: Path, model: str) -> None:
    path = small_dense.write_folder(tmp_path / "model") if model == "small" else model
    plan = planned(path, devices=["cpu", FPGA])
    assert not any(part.shared for part in plan.placement)
    best = min(one.total_seconds for one in plan.single_devices if one.fits)
    assert plan.prediction.total_seconds <= best


@pytest.mark.parametrize("family", [small_dense, small_deepseek])
def test_what_is_divided_runs_as_it_is_planned(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    family: Any,
) -> None:
    monkeypatch.setattr(dividing, "WORTH", -1e9)  # whatever it costs
    path = family.write_folder(tmp_path / "model")
    place = placement_of(planned(path, devices=["cpu", FPGA]))
    operators = parse_placement(place, n_layers=2 if family is small_dense else 3).operators
    assert operators
    assert all(
        len(uris) == 1 if role.startswith("expert.") else len(uris) == 2
        for (_, role), uris in operators.items()
    )
    assert any("expert" in role for _, role in operators) == (family is small_deepseek)
    run = ["run", str(path), "--prompt", "the", "--raw", "--max-tokens", "5", "--json"]
    found = []
    for where in (place, "*=cpu"):
        assert main([*run, "--place", where]) == 0
        found.append(json.loads(capsys.readouterr().out)["token_ids"])
    assert found[0] == found[1]


@pytest.mark.parametrize("cap", [None, 4 * 10**9])
def test_experts_go_to_devices_one_by_one(cap: int | None) -> None:
    caps = {} if cap is None else {"cpu:1": cap}
    how: dict[str, Any] = {"context": 64, "prompt_tokens": 4, "devices": BOTH}
    plan = planned("deepseek-v2-lite", caps=caps, **how)
    (_, layers, _) = plan.placement
    away = [role for role, uris in layers.shared.items() if role.startswith("expert.")]
    other = {uris for role, uris in layers.shared.items() if role in away}
    assert len(other) == 1
    assert (len(away) == 32) if cap is None else (0 < len(away) < 32)
    assert layers.reason.count("experts one by one (") == 1
    assert plan.fits
    if cap is not None:
        assert used(plan)["cpu:1"] <= cap
    best = min(one.total_seconds for one in plan.single_devices if one.fits)
    assert plan.prediction.total_seconds < 0.9 * best
    spec = placement_of(plan)
    assert "1-26.expert." in spec
    places = parse_placement(spec, n_layers=27).operators
    assert {(3, role): uris for role, uris in layers.shared.items()} == {
        key: uris for key, uris in places.items() if key[0] == 3
    }


def test_biased_matrices_are_planned_by_hand_too(tmp_path: Path) -> None:
    path = small_dense.write_folder(tmp_path / "model", "llama-every-bias")
    plan = planned(path, place=f"*=cpu,0.q=cpu|{FPGA}")
    assert "q: columns 0-" in plan.placement[0].reason
