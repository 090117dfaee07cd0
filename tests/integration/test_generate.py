"""SmolLM2 writes text over several devices, and each device's share is right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ciuic.cli import main
from ciuic.devices import DeviceManager
from ciuic.models.fetch import FETCH_COMMAND, smollm2_file
from ciuic.models.loading import load_model
from ciuic.models.names import DEFAULT_MODEL, SMOLLM2

PROMPT = "Explain in two sentences what a compiler does."
pytestmark = pytest.mark.model


@pytest.fixture(scope="module", autouse=True)
def smollm2_path() -> Path:
    path = smollm2_file()
    if not path.is_file():
        pytest.skip(f"needs {path.name}; run: {FETCH_COMMAND}")
    return path


def run(
    capsys: pytest.CaptureFixture[str], *arguments: str, model: str = SMOLLM2
) -> dict[str, Any]:
    assert main(["run", model, "--check", "--json", *arguments]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


@pytest.mark.opencl
def test_all_devices_give_the_same_bits(smollm2_path: Path) -> None:
    if not DeviceManager().list_uris("GPU"):
        pytest.skip("needs an OpenCL device; run: python -m pip install 'ciuic[opencl-cpu]'")
    with load_model(smollm2_path, quantize="int8") as model:
        ids = model.encode("Why is the sky blue?")
        model.place({0: "opencl", 1: "opencl", 2: "fpga:emulated"}, head="opencl")
        spread = model.logits(ids)
        model.place({0: "cpu", 1: "cpu", 2: "cpu"}, head="cpu")
        model.layers[2].as_fpga = True
        model.layers[2].attention = model.runtime.device("fpga:emulated").attention
        assert np.array_equal(model.logits(ids), spread)


@pytest.mark.opencl
def test_opencl_cpu_and_fpga_write_what_the_cpu_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    if not DeviceManager().list_uris("GPU"):
        pytest.skip("needs an OpenCL device; run: python -m pip install 'ciuic[opencl-cpu]'")
    place = "0-14=opencl,15-28=cpu,29=fpga:emulated"
    report = run(capsys, "--prompt", PROMPT, "--max-tokens", "12", "--place", place)
    assert report["text"].startswith("A compiler is a software")
    assert {row["device"] for row in report["usage"]} == {"opencl:0", "cpu", "fpga:emulated"}
    assert all(row["tasks"] for row in report["usage"])


@pytest.mark.rtl
def test_rtl_of_the_overlay_writes_what_the_cpu_writes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = "29=fpga:rtl?config=tiny"
    arguments = ["--prompt", "The capital of France is", "--raw", "--max-tokens", "2"]
    report = run(capsys, *arguments, "--place", place)
    (layer,) = report["check"]["layers"]
    assert layer["equal"]
    (fpga,) = report["fpga"]
    assert fpga["cycles"] > 100_000


@pytest.mark.parametrize(
    ("model", "layers", "place"),
    [(DEFAULT_MODEL, 6, "0-5=fpga:emulated"), (SMOLLM2, 30, "0-27=cpu,28-29=fpga:emulated")],
)
def test_int4_weights_on_the_overlay_write_what_the_cpu_writes(
    capsys: pytest.CaptureFixture[str], model: str, layers: int, place: str
) -> None:
    arguments = ["--prompt", "It was", "--raw", "--max-tokens", "4", "--quantize", "int4"]
    report = run(capsys, *arguments, "--place", place, model=model)
    assert report["check"]["same_tokens"]
    checks = report["check"]["layers"]
    assert checks[-1]["layer"] == layers - 1
    assert all(check["equal"] and check["tasks"]["linear_int4"] > 0 for check in checks)


def test_interrupt_leaves_no_process_and_no_file(tmp_path: Path) -> None:
    trace = tmp_path / "trace.json"
    command = [
        *(
            str(Path(sys.executable).with_name("ciuic")),
            "run",
            SMOLLM2,
            "--prompt",
            PROMPT,
            "--max-tokens",
            "2000",
        ),
        *("--place", "29=fpga:emulated", "--trace", str(trace)),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
    ) as process:
        assert process.stdout is not None
        while "placement" not in process.stdout.readline():
            assert process.poll() is None
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err.endswith("ciuic: error: interrupted\n")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
