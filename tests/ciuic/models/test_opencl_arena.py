"""Runs with models on OpenCL: what they report of its arena, and how little memory they need."""

from __future__ import annotations

import gc
import json
import re
from pathlib import Path

import pytest

from ciuic.cli import main
from ciuic.devices.opencl import list_devices

pytestmark = [
    pytest.mark.opencl,
    pytest.mark.skipif(not list_devices(), reason="pip install 'ciuic[opencl-cpu]'"),
]


def test_a_run_reports_the_arena_of_each_device(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--prompt", "Once", "--raw", "--max-tokens", "4", "--check", "--json"]
    place = "0-1=opencl,2=fpga:emulated?config=sim,3-4=opencl,5=cpu"
    assert main(["run", *options, "--quantize", "int8", "--place", place]) == 0
    report = json.loads(capsys.readouterr().out)
    arenas = {row["device"]: row["arena_bytes"] for row in report["memory"]}
    assert arenas["cpu"] > 0
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
