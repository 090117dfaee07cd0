"""Divided matrices and experts placed one by one: the bits of the whole, and who did what."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.errors import UsageError
from ciuic.memory.division import divide
from ciuic.models.divided import place_operators, share_columns
from ciuic.models.dry_run import DryRuntime
from ciuic.models.layer_costs import CostRules, Workload
from ciuic.models.loading import load_model
from ciuic.models.model import Model
from ciuic.models.weights import Quantize
from ciuic.quantize import QuantizedMatrix, quantize_columns
from ciuic.runtime import Runtime

from ..standin import StandIn
from . import small_deepseek, small_dense

FPGA = "fpga:emulated?config=sim"


@pytest.fixture
def devices() -> Iterator[list[StandIn]]:
    with StandIn("gpu:a") as first, StandIn("gpu:b") as second:
        yield [first, second]


def load(path: Path, manager: DeviceManager, quantize: Quantize | None = "int8") -> Model:
    return load_model(path, quantize=quantize, runtime=Runtime(manager))


def quantized(k: int, n: int) -> QuantizedMatrix:
    return quantize_columns(np.random.default_rng(3).standard_normal((k, n)).astype(np.float32))


def written(model: Model, ids: list[int]) -> list[int]:
    generation = model.generate(ids, 4)
    for _ in generation:
        pass
    return generation.ids


@pytest.mark.parametrize("quantize", ["int8", "int4"])
@pytest.mark.parametrize("variant", ["llama", "llama-every-bias"])
def test_a_divided_matrix_gives_the_bits_of_the_whole(
    tmp_path: Path, devices: list[StandIn], quantize: Quantize, variant: str
) -> None:
    path = small_dense.write_folder(tmp_path / "model", variant)
    ids = small_dense.token_ids(variant)
    with DeviceManager() as manager, load(path, manager, quantize) as model:
        whole = model.logits(ids)
        runtime = model.runtime
        shared = [runtime.device("cpu"), *map(runtime.device, devices)]
        rng = np.random.default_rng(5)
        for layer in model.layers:
            weights = layer.weights
            for role in ("q", "o", "gate", "down"):
                columns = weights[role].shape[1]
                cuts = np.sort(rng.choice(np.arange(1, columns), len(shared) - 1, replace=False))
                counts = np.diff([0, *cuts.tolist(), columns]).tolist()
                bias = weights[f"{role}_bias"] if f"{role}_bias" in weights.stored else None
                runtime.divide(weights[role], list(zip(shared, counts, strict=True)), bias)
        assert np.array_equal(model.logits(ids), whole)
        op = "linear" if quantize == "int8" else "linear_int4"
        for device in devices:
            assert device.statistics.ops[op].tasks == 4 * len(model.layers)
        tokens = written(model, ids)
        runtime.divisions.clear()
        assert written(model, ids) == tokens


def test_an_overlay_takes_part(tmp_path: Path) -> None:
    path = small_dense.write_folder(tmp_path / "model")
    ids = small_dense.token_ids("llama")
    with DeviceManager() as manager, load(path, manager) as model:
        whole = model.logits(ids)
        runtime = model.runtime
        shares = [(runtime.device(FPGA), 23), (runtime.device("cpu"), 25)]
        runtime.divide(model.layers[1].weights["down"], shares)
        assert np.array_equal(model.logits(ids), whole)
        assert runtime.device(FPGA).statistics.ops["linear"].tasks == 1


def test_experts_go_to_devices_one_by_one(tmp_path: Path, devices: list[StandIn]) -> None:
    path = small_deepseek.write_folder(tmp_path / "model")
    ids = list(range(2, 30))
    with DeviceManager() as manager, load(path, manager) as model:
        whole = model.logits(ids)
        runtime = model.runtime
        for device in devices:
            runtime.manager._devices[device.uri] = device
        places = {(1, f"expert.{e}"): (devices[e % 2].uri,) for e in range(6)}
        shared = place_operators(model.layers, runtime, places)
        assert shared == {key: uris[0] for key, uris in places.items()}
        assert np.array_equal(model.logits(ids), whole)
        for device in devices:
            counts = {op: count.tasks for op, count in device.statistics.ops.items()}
            # Gate, up and down of those experts that some token was routed to.
            assert counts["silu_mul"] in (1, 2, 3)
            assert counts["linear"] == 3 * counts["silu_mul"]


def test_columns_are_shared_so_that_all_end_together(devices: list[StandIn]) -> None:
    with DeviceManager() as manager:
        runtime = Runtime(manager)
        model_weight = quantized(256, 800)
        home = runtime.device("cpu")
        both = [runtime.device(device) for device in devices]
        shares, why = share_columns(runtime, model_weight, both, home)
        assert [count for _, count in shares] == [400, 400]
        assert why.startswith("gpu:a 50 of 100 in")
        shares, why = share_columns(runtime, model_weight, both[:1], home)
        assert (shares, why) == ([(devices[0], 800)], "as asked")


def test_shares_that_are_not_all_columns_are_refused(devices: list[StandIn]) -> None:
    with pytest.raises(
        UsageError,
        match=r"^shares must be 8 columns together, each at least 1, not 3 on gpu:a, 4 on gpu:b$",
    ):
        divide(quantized(16, 8), [(devices[0], 3), (devices[1], 4)])


def test_run_and_plan_take_operators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(small_deepseek.write_folder(tmp_path / "model"))
    place = f"0.ffn.down=cpu|{FPGA},1.expert.0-3={FPGA}"
    run = ["run", path, "--prompt", "the", "--raw", "--max-tokens", "5", "--place", place]
    assert main([*run, "--check", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["check"]["same_tokens"]
    assert {row["uri"] for row in report["devices"]} == {"cpu", FPGA}
    assert report["shared"]["1.expert.2"] == FPGA
    assert "columns 0-" in report["shared"]["0.ffn.down"]
    ops = {row["device"]: row["ops"] for row in report["usage"]}
    assert ops[FPGA]["linear"] > 0
    assert main(["plan", path, "--place", place, "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    why = {part["part"]: part["reason"] for part in plan["placement"]}
    assert "ffn.down: columns 0-" in why["layer 0"]
    assert f"expert.3: {FPGA}" in why["layer 1"]
    assert any(row["device"] == FPGA for row in plan["memory"])


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("0.nothing=cpu", "--place must name a matrix or expert of layer 0, one of "),
        ("1.expert.0=cpu|opencl", "--place must put expert 1.expert.0 on one device"),
        ("1.expert.99=cpu", "not 'expert.99'"),
        ("0.ffn.down=cpu,0.ffn.down=cpu", "--place must name 0.ffn.down once, not twice"),
        ("9.ffn.down=cpu", "--place must name layers from 0 to 2, not '9'"),
    ],
)
def test_operators_that_are_not_there_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str, message: str
) -> None:
    path = str(small_deepseek.write_folder(tmp_path / "model"))
    assert main(["run", path, "--prompt", "the", "--raw", "--place", place]) == 2
    assert message in capsys.readouterr().err


def test_a_plan_counts_the_parts_of_a_matrix_at_the_same_time(
    tmp_path: Path, devices: list[StandIn]
) -> None:
    """Each of two equal devices takes half of the columns: the layer takes less time."""
    path = small_dense.write_folder(tmp_path / "model")
    with DeviceManager() as manager:
        runtime = DryRuntime(manager)
        for device in devices:
            manager._devices[device.uri] = device
        rules = CostRules(runtime, Workload(prompt_tokens=8, context=16))
        with load_model(path, quantize="int8", runtime=runtime) as model:
            layer = model.layers[0]
            first, second = map(runtime.device, devices)
            whole = rules.layer(layer, model.config, first).first
            weight = layer.weights["gate"]
            columns = weight.shape[1]
            runtime.divide(weight, [(first, columns // 2), (second, columns - columns // 2)])
            divided = rules.layer(layer, model.config, first).first
    assert whole.overlapped == 0
    assert divided.overlapped == pytest.approx(divided.devices[second.uri].total, rel=1e-6)
    assert divided.seconds == pytest.approx(
        divided.transfers + divided.work - divided.devices[second.uri].total
    )
