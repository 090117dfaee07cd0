"""Models on devices that do not hold them: the same tokens, within the cap, as planned."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.devices.cpu import CpuDevice
from ciuic.models.converted import convert
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.models.plan import plan_model
from ciuic.models.plan_report import ModelPlan
from ciuic.models.planner import PlanRequest
from ciuic.models.resident import resident
from ciuic.runtime import Runtime

from . import small_dense
from .conftest import Write

Capture = pytest.CaptureFixture[str]
FPGA = "fpga:emulated?config=tiny"


def planned(model: str | Path, cap: int, **how: Any) -> ModelPlan:
    how = {"place": f"*={FPGA}", "context": 40, "prompt_tokens": 20, "caps": {"FPGA": cap}, **how}
    with DeviceManager() as manager:
        return plan_model(PlanRequest(model=model, **how), manager)


def device_row(plan: ModelPlan) -> Any:
    (row,) = [row for row in plan.memory if row.tier == "device"]
    return row


def cap_for(model: str | Path, share: float, **how: Any) -> int:
    """Return the bytes of a device that has room for a share of its weights beside the rest."""
    row = device_row(planned(model, 1 << 30, **how))
    return int(row.total_bytes - (1 - share) * row.nbytes["weights"])


def command(capsys: Capture, *arguments: str) -> Any:
    gc.collect()  # devices are shared in a process: what models before had there must be gone
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_a_model_larger_than_its_device_writes_the_same_tokens(
    small_model: Write, capsys: Capture, share: float
) -> None:
    path = str(small_model(50, tied=False, n_kv_heads=4))
    run = ["run", path, "--raw", "--prompt", "the", "--max-tokens", "6", "--place", f"*={FPGA}"]
    whole = command(capsys, *run)
    row = device_row(planned(path, 1 << 30, context=7, prompt_tokens=1))
    weights = row.nbytes["weights"]
    others = row.total_bytes - weights
    cap = int(share * weights) + others
    capped = command(capsys, *run, "--cap", f"{FPGA}={cap}", "--check")
    assert capped["token_ids"] == whole["token_ids"]
    assert capped["check"]["same_tokens"]
    assert all(layer["equal"] for layer in capped["check"]["layers"])
    (memory,) = [row for row in capped["memory"] if row["device"] == FPGA]
    assert memory["capacity_bytes"] == cap
    assert memory["used_bytes"] <= memory["peak_bytes"] <= cap
    (one,) = capped["residency"]
    assert one["streamed"]
    assert one["pinned_bytes"] + one["slots"] * one["slot_bytes"] <= cap - others


@pytest.mark.parametrize("cap", ["6MB", "3MB"])
def test_experts_come_when_a_token_is_routed_to_them(capsys: Capture, cap: str) -> None:
    run = ["run", "--prompt", "It was", "--max-tokens", "5", "--place", f"*={FPGA}"]
    whole = command(capsys, *run)
    capped = command(capsys, *run, "--cap", f"FPGA={cap}")
    assert capped["token_ids"] == whole["token_ids"]
    (one,) = capped["residency"]
    assert all(".expert." in name for name in one["on_demand"])
    assert not any(".expert." in name for name in one["streamed"])
    assert one["on_demand"]
    # Bytes over the link: nobody brings experts that no token is routed to.
    moved = {row["device"]: row["nbytes"] for row in capped["usage"]}
    before = {row["device"]: row["nbytes"] for row in whole["usage"]}
    tokens = len(capped["token_ids"]) + 2
    most = tokens * (one["streamed_bytes"] + 4 * one["routed_bytes"] + one["slot_bytes"])
    assert 0 < moved[FPGA] - before[FPGA] < most


def test_a_small_memory_in_the_name_does_what_a_cap_does(capsys: Capture) -> None:
    small = f"{FPGA}&memory=4"
    run = ["run", "--prompt", "It was", "--max-tokens", "4", "--place"]
    whole = command(capsys, *run, f"*={FPGA}")
    capped = command(capsys, *run, f"*={small}")
    assert capped["token_ids"] == whole["token_ids"]
    assert [one["device"] for one in capped["residency"]] == [small]


def test_what_streams_is_shown(capsys: Capture) -> None:
    cap = cap_for(DEFAULT_MODEL, 0.4, prompt_tokens=39)
    assert main(["plan", "--place", f"*={FPGA}", "--cap", f"FPGA={cap}", "--context", "40"]) == 0
    out = capsys.readouterr().out
    assert "slots" in out
    assert f"{FPGA}: " in out
    assert " weights stay (" in out
    assert "weights of experts come when a token is routed to them" in out
    assert "waiting for weights that stream: " in out


def test_a_cap_below_everything_says_what_would_do(capsys: Capture) -> None:
    run = ["run", "--prompt", "It was", "--max-tokens", "4", "--place", f"*={FPGA}", "--cap"]
    assert main([*run, "FPGA=1MB"]) == 2
    error = capsys.readouterr().err
    assert f"{FPGA} must hold " in error
    least = int(error.split("all of it with ")[1].split(" bytes")[0].replace(",", ""))
    assert main([*run, f"FPGA={least}"]) == 0
    capsys.readouterr()
    assert main([*run, f"FPGA={least - 4096}"]) == 2


@pytest.mark.parametrize("share", [0.6, 0.9])
def test_plan_says_what_is_where(small_model: Write, share: float) -> None:
    path = small_model(3, tied=False)
    whole = planned(path, 1 << 30)
    assert whole.residency == ()
    row = device_row(whole)
    cap = int(share * row.nbytes["weights"]) + row.total_bytes - row.nbytes["weights"]
    plan = planned(path, cap)
    assert plan.fits
    (one,) = plan.residency
    row = device_row(plan)
    assert row.nbytes["weights"] == one.pinned_bytes
    assert row.nbytes["slots"] == one.slots_bytes == one.slots * one.slot_bytes
    assert row.total_bytes <= cap == row.capacity_bytes
    assert one.source == "host"
    names = {
        *(f"layers.{layer}.{role}" for layer in range(2) for role in "qkvo"),
        *(f"layers.{layer}.{role}" for layer in range(2) for role in ("gate", "up", "down")),
        "head.output",
    }
    assert {*one.pinned, *one.streamed} == names
    assert plan.prediction.tokens_per_second <= whole.prediction.tokens_per_second
    assert plan.prediction.waiting_seconds == one.waiting_seconds >= 0


def test_streams_end_with_their_model(small_model: Write) -> None:
    path = small_model(3, tied=False)
    plan = planned(path, cap_for(path, 0.6))
    runtime = Runtime(DeviceManager())
    with load_model(path, quantize="int8", runtime=runtime) as model:
        device = runtime.device(FPGA)
        model.place(dict.fromkeys(range(2), device), device)
        before = device.used_bytes
        with resident(model, plan.residency) as streams:
            assert len(streams) == 1
            assert list(model.generate([1, 2, 3], 4))
        assert not device.streams
        (one,) = plan.residency
        runtime.synchronize()
        assert device.used_bytes - before <= one.pinned_bytes


def test_converted_models_are_planned_too(small_model: Write, tmp_path: Path) -> None:
    with load_model(small_model(3), quantize="int8") as model:
        convert(model, tmp_path / "c")
    plan = planned(tmp_path / "c", cap_for(tmp_path / "c", 0.6))
    assert plan.residency
    assert plan.memory[-1].total_bytes == (tmp_path / "c" / "weights.safetensors").stat().st_size
    assert planned(DEFAULT_MODEL, 1 << 30).fits


@pytest.mark.parametrize("piece_nbytes", [None, 1000])
def test_the_host_reads_from_the_file_what_it_may_not_keep(
    tmp_path: Path,
    capsys: Capture,
    small_model: Write,
    monkeypatch: pytest.MonkeyPatch,
    piece_nbytes: int | None,
) -> None:
    monkeypatch.setattr(CpuDevice, "piece_nbytes", piece_nbytes)
    path, folder = small_model(5, tied=False, n_kv_heads=4), tmp_path / "c"
    with load_model(path, quantize="int8") as model:
        convert(model, folder)
    run = ["--raw", "--prompt", "the", "--max-tokens", "6"]
    whole = command(capsys, "run", str(folder), *run)
    host = {"place": "*=cpu", "context": 7, "prompt_tokens": 1, "on_disk": True}
    (row, *_) = planned(folder, 1, **host, caps={}).memory
    cap = row.total_bytes - row.nbytes["weights"] + 60_000
    capped = command(capsys, "run", str(folder), *run, "--cap", f"CPU={cap}", "--check")
    assert capped["token_ids"] == whole["token_ids"]
    assert capped["check"]["same_tokens"]
    (one,) = capped["residency"]
    assert (one["device"], one["source"]) == ("cpu", "disk")
    assert one["streamed"]
    assert any("[" in name for name in one["streamed"]) == (piece_nbytes is not None)
    assert one["pinned_bytes"] + one["slots"] * one["slot_bytes"] <= 60_000
    # Weights that were quantized when they were loaded are in no file.
    assert main(["run", str(path), *run, "--cap", f"CPU={cap}"]) == 2
    assert "cpu: a model from `ciuic convert`, streaming from its file" in capsys.readouterr().err


@pytest.mark.parametrize("variant", ["qwen2", "llama-every-bias"])
def test_pieces_have_their_biases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variant: str
) -> None:
    small_dense.write_folder(tmp_path / "whole", variant)
    with load_model(tmp_path / "whole", quantize="int8") as model:
        convert(model, tmp_path / "c")
        expected = list(model.generate([5, 6, 7], 6))
    monkeypatch.setattr(CpuDevice, "piece_nbytes", 700)
    how: dict[str, Any] = {"place": "*=cpu", "context": 9, "prompt_tokens": 3, "on_disk": True}
    (row, *_) = planned(tmp_path / "c", 1, **how, caps={}).memory
    cap = row.total_bytes - row.nbytes["weights"] // 2
    plan = planned(tmp_path / "c", 1, **how, caps={"CPU": cap})
    (one,) = plan.residency
    assert (one.slots,) == CpuDevice.slot_counts[0]
    assert len(one.streamed) > one.slots
    runtime = Runtime(DeviceManager())
    with load_model(tmp_path / "c", runtime=runtime) as model:
        with resident(model, plan.residency):
            assert runtime.divisions
            assert list(model.generate([5, 6, 7], 6)) == expected
        assert not runtime.divisions
