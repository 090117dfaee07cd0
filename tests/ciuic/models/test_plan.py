"""Plans: counts against published ones, memory against what a loaded model holds, the rest."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.errors import ModelFormatError, UsageError
from ciuic.models.dry_run import DryRuntime
from ciuic.models.layer_costs import Workload
from ciuic.models.loading import load_model, model_network
from ciuic.models.names import DEFAULT_MODEL
from ciuic.models.plan import CONFIGS, FORMATS, open_outline, plan_model
from ciuic.models.plan_report import DeviceMemory, ModelPlan
from ciuic.models.planner import PlanRequest
from ciuic.runtime import Runtime
from ciuic.scheduler.cost import CostModel

from . import small_deepseek
from .conftest import Write

BOARD = "fpga:emulated?config=sim"


def planned(model: str | Path = DEFAULT_MODEL, **how: Any) -> ModelPlan:
    if "place" not in how:
        how.setdefault("devices", ["cpu"])
    with DeviceManager() as manager:
        return plan_model(PlanRequest(model=model, **how), manager)


def held(plan: ModelPlan, kind: str) -> dict[str, int]:
    return {row.device: row.nbytes.get(kind, 0) for row in plan.memory if row.tier != "disk"}


@pytest.mark.parametrize(
    ("name", "total", "active", "cache", "factor"),
    [
        # 671 B in all, 36.6 B active: README_WEIGHTS.md of DeepSeek-V3.
        ("deepseek-v3", 671_026_419_200, 36.6e9, 576 * 61, 40_960 / 576),
        # 15.7 B and 2.4 B: DeepSeek-V2, appendix B.
        ("deepseek-v2-lite", 15_706_484_224, 2.45e9, 576 * 27, 8.9),
        # 1.78 B as the model's page counts, with the embedding.
        ("deepseek-r1-distill-qwen-1.5b", 1_777_088_000, 1.54e9, 2 * 2 * 128 * 28, 1.0),
    ],
)
def test_counts_are_the_published_ones(
    name: str, total: int, active: float, cache: int, factor: float
) -> None:
    size = planned(name, prompt_tokens=1).size
    assert size.parameters == total
    assert size.active_parameters == pytest.approx(active, rel=0.005)
    assert size.cache_bytes == 4 * cache
    assert size.expanded_cache_bytes / size.cache_bytes == pytest.approx(factor, rel=0.005)


def test_operators_sum_up_to_their_part_and_the_file() -> None:
    size = planned().size
    for part in size.parts:
        assert sum(one.parameters for one in part.operators) == part.parameters
        assert sum(one.flops for one in part.operators) == part.flops
    with load_model() as model:
        stored = model._source.tensors
    assert stored is not None
    assert size.parameters == sum(math.prod(info.shape) for info in stored.values())
    # Two operations a weight, and more for attention and norms.
    assert 2 * size.active_parameters < size.flops < 4 * size.active_parameters


def test_a_tied_output_counts_once(small_model: Write) -> None:
    tied, apart = planned(small_model(tied=True)).size, planned(small_model(tied=False)).size
    table = tied.parts[0].parameters
    assert apart.parameters - tied.parameters == table
    assert apart.active_parameters == tied.active_parameters


def test_a_device_may_be_named_in_any_way_that_opens_it() -> None:
    short, full = (planned(place=f"*={uri},0.ffn.down=cpu|{uri}") for uri in ("opencl", "opencl:0"))
    assert short.placement == full.placement
    assert {part.device for part in short.placement} == {"opencl:0"}


@pytest.mark.parametrize("quantize", FORMATS)
@pytest.mark.parametrize("place", ["*=cpu", f"0-2={BOARD},head={BOARD}"])
def test_memory_is_what_a_loaded_model_holds(quantize: str, place: str) -> None:
    context = 258  # more than one block of the cache
    plan = planned(place=place, context=context, prompt_tokens=256, format=quantize)
    runtime = Runtime(DeviceManager())
    gc.collect()  # devices are shared: weights of other tests must be gone before, not meanwhile
    runtime.synchronize()
    before = {on.uri: on.used_bytes - on.kept_bytes for on in runtime.manager.devices}
    uris = [BOARD if BOARD in place and index < 3 else "cpu" for index in range(6)]
    with load_model(quantize=FORMATS[quantize], runtime=runtime) as model:
        model.place(dict(enumerate(uris)), BOARD if BOARD in place else "cpu")
        model.load()
        cache = model.new_cache()
        model.prefill(list(range(2, 258)), cache)
        for id_ in (2, 3):
            model.decode(id_, cache)
        assert cache.length == context
        runtime.synchronize()
        real = {on.uri: on.used_bytes - before.get(on.uri, 0) for on in runtime.manager.devices}
        assert sum(held(plan, "kv_cache").values()) == cache.nbytes
        for on in runtime.manager.devices:
            kept = on.kept_bytes  # another test's perhaps
            assert held(plan, "staging").get(on.uri, 0) <= kept
            real[on.uri] -= kept
        assert real == {
            uri: size + held(plan, "kv_cache")[uri] for uri, size in held(plan, "weights").items()
        }
        # Queues keep inputs a little longer than the code that submits, but for those of arenas,
        # which are seen in test_arena.py.
        for uri, size in held(plan, "activations").items():
            on = runtime.device(uri)
            if on.arena_alignment is None:
                assert size <= on.peak_bytes - before.get(uri, 0)


def test_a_dry_run_submits_what_a_run_submits(small_model: Write) -> None:
    """Of a model without experts, where nothing depends on contents."""
    path, ids = small_model(7), list(range(2, 12))
    runtime = Runtime(DeviceManager())
    with load_model(path, quantize="int8", runtime=runtime) as model:
        model.place({0: "cpu", 1: BOARD}, BOARD)
        model.load()
        cache = model.new_cache()
        model.prefill(ids, cache)
        trace = runtime.start_trace()
        model.decode(3, cache)
        runtime.stop_trace(trace)
    real = Counter(
        (record.device, record.op, record.inputs)
        for record in trace.records
        if record.op not in ("upload", "download", "wait")
    )
    with DeviceManager() as manager:
        dry = DryRuntime(manager)
        network = model_network(open_outline(path), quantize="int8", runtime=dry)
        for weights in (network.embedding, network.head, *(x.weights for x in network.layers)):
            weights.outline()
        plan = plan_model(
            PlanRequest(model=path, place=f"1={BOARD},head={BOARD}", prompt_tokens=len(ids)),
            manager,
        )
        tasks = {one.device: one.tasks for one in plan.prediction.devices}
    by_device: Counter[str] = Counter()
    for (device, _, _), count in real.items():
        by_device[device] += count
    assert tasks == dict(by_device)
    sizes = [one for part in plan.size.parts for one in part.operators for _ in range(part.layers)]
    assert Counter(op for _, op, _ in real.elements()) == sum(
        (Counter({one.operator: one.tasks}) for one in sizes), Counter()
    )


def test_no_weight_is_read(tmp_path: Path) -> None:
    path = small_deepseek.write_folder(tmp_path / "model")
    whole = planned(path)
    for file in path.iterdir():
        if file.name != "config.json":
            file.write_bytes(file.read_bytes()[:9])
    assert planned(path).size == whole.size
    for file in path.iterdir():
        if file.name != "config.json":
            file.unlink()
    assert planned(path).size == planned(path / "config.json").size == whole.size


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model_type": "gpt2"}, "model_type must be one of"),
        ({"hidden_size": 0}, "dim must be at least 1"),
        ({"num_hidden_layers": "three"}, "num_hidden_layers must be an integer"),
        ({"n_group": 3}, "n_groups must divide"),
    ],
)
def test_a_bad_config_is_refused(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    path = small_deepseek.write_folder(tmp_path / "model", changes=changes)
    with pytest.raises(ModelFormatError, match=reason):
        planned(path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": 3}'])
def test_a_broken_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelFormatError):
        planned(tmp_path)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="one of deepseek-r1-distill"):
        planned(tmp_path / "missing")


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"context": 1}, "context must be from 2 to 1024 tokens"),
        ({"context": 1025}, "context must be from 2 to 1024 tokens"),
        ({"prompt_tokens": 0}, "prompt tokens must be from 1 to 1023, not 0"),
        ({"context": 10, "prompt_tokens": 10}, "prompt tokens must be from 1 to 9, not 10"),
        ({"format": "int3"}, "format must be one of int8"),
        ({"caps": {"GPU": 5}}, "--cap must name a device of the plan, not 'GPU'"),
        ({"place": "9=cpu"}, "--place must name layers from 0 to 5"),
        ({"place": "0=cpu", "devices": ["cpu"]}, "leave --device out"),
    ],
)
def test_a_bad_request_is_refused(how: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        planned(**how)


def test_what_does_not_fit_is_found_with_what_would(tmp_path: Path) -> None:
    whole = planned()
    row = next(one for one in whole.memory if one.device == "cpu")
    cap = row.total_bytes - row.nbytes["kv_cache"] // 2
    plan = planned(caps={"CPU": cap})
    assert not plan.fits
    assert plan.problems[0].startswith(f"cpu must hold {row.total_bytes:,} bytes (")
    assert plan.problems[0].endswith(f"{cap:,} are available")
    (context,) = [text for text in plan.would_fit if "context" in text]
    tokens = int(context.split()[-2].replace(",", ""))
    assert tokens == 512
    assert planned(caps={"CPU": cap}, context=tokens).fits
    assert not planned(caps={"CPU": cap}, context=tokens + 1).fits
    assert planned(caps={"CPU": row.total_bytes}).fits


def test_layers_that_fit_are_counted() -> None:
    plan = planned("deepseek-v3", caps={"cpu": 20 << 30}, prompt_tokens=1)
    (layers,) = [text for text in plan.would_fit if "layers" in text]
    assert layers == "cpu: 4 of its 61 layers"  # the dense ones and one with experts
    assert plan.left_out == ("layers for multi-token prediction: 1",)
    assert plan.memory[-1].nbytes == {"weights": plan.size.parameters}  # FP8: a byte each


def test_a_capped_device_gets_less_and_the_plan_says_so() -> None:
    with DeviceManager() as manager:
        slow = plan_model(
            PlanRequest(model=DEFAULT_MODEL, devices=[BOARD], caps={"FPGA": 10 << 20}), manager
        )
        both = plan_model(
            PlanRequest(model=DEFAULT_MODEL, devices=[BOARD, "cpu"], caps={"cpu": 46 << 20}),
            manager,
        )
    assert slow.fits  # as weights stream
    assert slow.residency[0].slots_bytes > 0
    assert both.fits
    assert min(one.total_seconds for one in both.single_devices if one.fits) >= (
        both.prediction.total_seconds * (1 - 1e-9)
    )
    assert all("least time of the chain" in one.reason for one in both.placement)


def test_rows_of_memory_sum_up() -> None:
    for row in planned(place=f"0-3={BOARD}").memory:
        assert row.total_bytes == sum(row.nbytes.values())
        assert row.fits == (row.capacity_bytes is None or row.total_bytes <= row.capacity_bytes)


def test_disk_holds_the_file(small_model: Write) -> None:
    path = small_model()
    disk = planned(path).memory[-1]
    assert disk == DeviceMemory(
        tier="disk",
        device="model file",
        capacity_bytes=None,
        nbytes={"weights": path.stat().st_size},
    )


@pytest.mark.parametrize("prompt", [1, 255, 256, 257, 512, 1000, 5120])
def test_chunks_stand_for_the_whole_prompt(prompt: int) -> None:
    chunks = Workload(prompt_tokens=prompt, context=prompt + 1).chunks
    assert sum(t * share for _, t, share in chunks) == prompt
    # What grows in proportion to the tokens before is summed up exactly.
    exact = sum(start * min(256, prompt - start) for start in range(0, prompt, 256))
    assert sum(before * t * share for before, t, share in chunks) == exact


def test_times_grow_with_the_work() -> None:
    short, long = planned(prompt_tokens=100), planned(prompt_tokens=600)
    assert short.prediction.time_to_first_token < long.prediction.time_to_first_token
    assert long.prediction.tokens_per_second <= long.prediction.limit_tokens_per_second
    assert short.prediction.tokens_per_second > short.prediction.tokens_per_second_at_context


def test_a_plan_says_where_its_times_are_from(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {one.device: one for one in planned(place=f"0={BOARD}").prediction.devices}
    assert times[BOARD].emulated
    assert times[BOARD].basis == {"cycle model": times[BOARD].tasks}
    assert times["cpu"].basis.keys() <= {"measured", "assumed"}
    monkeypatch.setattr(CostModel, "is_measured", lambda *_: True)
    monkeypatch.setattr(CostModel, "seconds", lambda *_: 1.0)
    slow = {one.device: one for one in planned(place=f"0={BOARD}").prediction.devices}
    assert slow["cpu"].basis.keys() == {"measured"}
    assert slow["cpu"].work_seconds > 100
    assert slow[BOARD].work_seconds == times[BOARD].work_seconds  # the board's, not the emulation's
    monkeypatch.setattr(CostModel, "seconds", lambda *_: 2.1e-5)  # faster than was assumed
    fast = planned().prediction
    assert fast.devices[0].bytes_per_second > times["cpu"].bytes_per_second
    assert fast.tokens_per_second < fast.limit_tokens_per_second


def test_json_is_complete(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--place", f"0={BOARD},*=cpu", "--context", "64", "--json"]
    assert main(["plan", *arguments]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["estimated"] is plan["fits"] is True
    assert [part["part"] for part in plan["placement"]] == ["layer 0", "layers 1-5", "head"]
    assert plan["placement"][0]["device"] == BOARD
    assert plan["placement"][0]["reason"] == "as asked"
    assert "rms_norm" in plan["placement"][0]["on_host"]
    tiers = {(row["tier"], row["device"]) for row in plan["memory"]}
    assert {("on-chip", BOARD), ("device", BOARD), ("host", "cpu"), ("disk", "model file")} == tiers
    assert plan["size"]["parts"][1]["operators"]


def test_the_command_shows_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--device", "cpu", "--operators"]) == 0
    text = capsys.readouterr().out
    for wanted in ("7.158 M parameters", "8.0 times as many", "latent_attention", "memory limit"):
        assert wanted in text
    assert main(["plan", "--device", "cpu", "--cap", "cpu=1MiB"]) == 1
    assert "does not fit: cpu must hold" in capsys.readouterr().out
    for cap in ("cpu", "cpu=", "cpu=12XB", "cpu=0", "=5"):
        assert main(["plan", "--cap", cap]) == 2


def test_named_configs_are_those_of_the_help() -> None:
    names = {path.name for path in CONFIGS.iterdir()}
    assert names == {"deepseek-v3", "deepseek-v2-lite", "deepseek-r1-distill-qwen-1.5b"}
    assert np.all([(CONFIGS / name / "config.json").is_file() for name in names])
