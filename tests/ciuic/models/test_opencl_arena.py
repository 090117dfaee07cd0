"""Models on the OpenCL device: its arena changes no bit, is what the plan says, and is reported."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.devices.opencl import OpenclDevice, list_devices
from ciuic.devices.opencl_runtime import working_devices
from ciuic.devices.places import Places, grown
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL
from ciuic.models.plan import plan_model
from ciuic.models.planner import PlanRequest
from ciuic.runtime import Runtime

from ..standin import StandIn
from .conftest import Write

pytestmark = [
    pytest.mark.opencl,
    pytest.mark.skipif(not list_devices(), reason="pip install 'ciuic[opencl-cpu]'"),
]


@pytest.fixture
def device() -> Iterator[OpenclDevice]:
    with OpenclDevice("opencl:0", working_devices()[0]) as device:
        yield device


def logits(model: Any, device: Any, elsewhere: Any = None) -> list[npt.NDArray[np.float32]]:
    """Return the logits of a prompt, of tokens after it, and of a batch."""
    layers = range(len(model.layers))
    model.place({i: elsewhere if elsewhere and i % 2 else device for i in layers}, device)
    cache = model.new_cache()
    found = [model.prefill(list(range(3, 40)), cache)]
    found += [model.decode(token, cache) for token in (5, 6, 7, 8)]
    prompts: Sequence[Sequence[int]] = [[3, 4, 5], [9, 8], [7] * 12]
    caches = [model.new_cache() for _ in prompts]
    found.append(model.prefill_batch(prompts, caches))
    found += [model.decode_batch([4, 5, 6], caches) for _ in range(3)]
    return found


class NoReuse(Places):
    """Places of which none is ever given back."""

    def give(self, offset: int) -> None:
        """Do nothing."""


@pytest.mark.parametrize("quantize", ["int8", "int4", None])
@pytest.mark.parametrize("name", [DEFAULT_MODEL, None])
@pytest.mark.parametrize("alone", [True, False])
def test_bytes_used_again_change_no_bit(
    device: OpenclDevice, small_model: Write, name: str | None, quantize: Any, alone: bool
) -> None:
    how: dict[str, Any] = {"quantize": quantize, "runtime": Runtime()}
    with StandIn() as between, load_model(name or small_model(), **how) as model:
        got = logits(model, device, None if alone else between)
        used = device.statistics.counters["arena_bytes"]
        device._places = NoReuse(device._places.alignment)
        want = logits(model, device, None if alone else between)
    for one, other in zip(got, want, strict=True):
        np.testing.assert_array_equal(one, other)
    assert device.statistics.counters["arena_bytes"] > 3 * used


def test_the_plan_knows_the_arena(small_model: Write) -> None:
    """Of a model without experts, where nothing depends on contents."""
    path, prompt, context = small_model(3), 70, 90
    request = PlanRequest(
        model=path, place="*=opencl:0", prompt_tokens=prompt, context=context, format="int8"
    )
    with DeviceManager() as manager:
        plan = plan_model(request, manager)
    (planned,) = [row for row in plan.memory if row.device == "opencl:0"]
    runtime = Runtime(DeviceManager())
    with (
        OpenclDevice("opencl:0", working_devices()[0]) as device,
        load_model(path, quantize="int8", runtime=runtime) as model,
    ):
        model.place(dict.fromkeys(range(len(model.layers)), device), device)
        cache = model.new_cache()
        model.prefill(list(range(2, 2 + prompt)), cache)
        for _ in range(context - prompt):
            model.decode(3, cache)
        used = device.statistics.counters["arena_bytes"]
        assert grown(int(used)) == planned.nbytes["activations"] == device._arena_bytes
        assert device._arena_bytes + sum(
            planned.nbytes[kind] for kind in ("weights", "kv_cache")
        ) == pytest.approx(device.used_bytes, rel=0.01)


def test_a_run_reports_the_arena_of_each_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prompt", "Once", "--raw", "--max-tokens", "4", "--check", "--json"]
    place = "0-1=opencl,2=fpga:emulated?config=sim,3-4=opencl,5=cpu"
    assert main(["run", *options, "--quantize", "int8", "--place", place]) == 0
    report = json.loads(capsys.readouterr().out)
    arenas = {row["device"]: row["arena_bytes"] for row in report["memory"]}
    assert arenas["opencl:0"] > 0
    assert arenas["fpga:emulated?config=sim"] > 0
    for row in report["memory"]:
        assert row["arena_bytes"] <= row["peak_bytes"] <= row["capacity_bytes"]


def test_a_run_within_what_the_plan_says(capsys: pytest.CaptureFixture[str]) -> None:
    """All of the model, and as little as will do with its weights streaming."""
    options = ["--prompt", "Once upon", "--raw", "--max-tokens", "8", "--place", "*=opencl:0"]

    def run(*more: str) -> tuple[int, str, str]:
        gc.collect()  # models of earlier runs of this process, which are on the same device
        return main(["run", *options, "--quantize", "int8", "--json", *more]), *capsys.readouterr()

    _, written, _ = run()
    want = json.loads(written)["token_ids"]
    refused, _, why = run("--cap", "opencl:0=1000000")
    assert refused
    (whole, least) = (
        re.search(pattern, why) for pattern in (r"must hold ([\d,]+)", r"all of it with ([\d,]+)")
    )
    assert whole
    assert least
    for cap in (int(one[1].replace(",", "")) for one in (whole, least)):
        code, written, why = run("--cap", f"opencl:0={cap}")
        assert code == 0, why
        report = json.loads(written)
        (memory,) = [row for row in report["memory"] if row["device"] == "opencl:0"]
        assert report["token_ids"] == want
        assert 0 < memory["arena_bytes"] < memory["peak_bytes"] <= memory["capacity_bytes"] == cap
