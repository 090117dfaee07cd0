"""The Vivado scripts under Tcl, with commands that refuse what the tool would refuse.

Vivado itself is not run. What the stand-in cannot know, the names of the vendor's parts, it takes
from `hw/boards/names.tsv`, where each has its source.
"""

from __future__ import annotations

import csv
import functools
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ciuic.abi import ADDRESS_MAPS, CONFIGS, OverlayConfig, registers

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[hw]'")

from amaranth.hdl import Module, Signal
from ciuic_hw.build import vivado
from ciuic_hw.build.boards import BOARDS
from ciuic_hw.build.hwh import hwh_text
from ciuic_hw.overlay import Overlay
from ciuic_hw.zynq.system import Zynq7Overlay

ROOT = Path(__file__).parents[2]
STUB = Path(__file__).with_name("vivado_stub.tcl")
NAMES = ROOT / "hw" / "boards" / "names.tsv"
ZYNQ = sorted(ADDRESS_MAPS)
GOOD = {
    "board_parts": "xilinx.com:kv260_som:part0:1.4",
    "PROGRESS": "100%",
    "STATUS": "done",
    "STATS.WNS": "0.1",
    "STATS.WHS": "0.02",
    "STATS.TPWS": "0",
}
IN_PYTHON = "import sys, tkinter; tcl = tkinter.Tcl(); tcl.evalfile(sys.argv[1])"


def tcl_command() -> list[str]:
    """Return what runs a Tcl script: tclsh, or the Tcl within Python."""
    if tclsh := shutil.which("tclsh"):
        return [tclsh]
    try:
        import tkinter as _  # noqa: F401
    except ImportError:
        pytest.skip("needs Tcl: apt install tcl, or a Python with tkinter")
    return [sys.executable, "-c", IN_PYTHON]


def names() -> list[dict[str, str]]:
    with NAMES.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


@pytest.fixture
def ports_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave of the gateware its ports: elaborating the rest takes a minute."""

    def clocked(self: Overlay | Zynq7Overlay, platform: object) -> Module:
        m = Module()
        if isinstance(self, Zynq7Overlay):
            m.submodules.overlay = self._overlay
        m.d.sync += Signal().eq(1)
        return m

    for component in (Overlay, Zynq7Overlay):
        monkeypatch.setattr(component, "elaborate", clocked)


@functools.cache
def gateware(board: str, config: OverlayConfig) -> str:
    return vivado.verilog_text(BOARDS[board], config)


def run(
    board: str,
    folder: Path,
    *,
    config: OverlayConfig | None = None,
    outcome: dict[str, str] | None = None,
    change: tuple[str, str, str] | None = None,
) -> tuple[str, list[str]]:
    """Run a board's script; return what it said when it failed, and the calls that it made.

    ``change`` is a file, what stands there once, and what shall stand there instead.
    """
    root, prepared = folder / "root", folder / "prepared"
    shutil.copytree(ROOT / "hw" / "boards", root / "hw" / "boards")
    prepared.mkdir()
    target = BOARDS[board]
    config = config or target.config
    (prepared / "constants.tcl").write_text(vivado.constants_text(target, config))
    source = gateware(board, config)
    (prepared / "overlay.v").write_text(source)
    if change:
        file, old, new = change
        path = prepared / file if file == "constants.tcl" else root / "hw" / "boards" / file
        text = path.read_text()
        assert text.count(old) == 1, (file, old, text.count(old))
        path.write_text(text.replace(old, new))
    declared = re.findall(r"^  (input|output)(?: \[\d+:0\])? (\w+);", source, re.MULTILINE)
    ports = {name: way for way, name in declared}
    rows = [
        " ".join(row[key] for key in ("block", "kind", "name", "is", "when")) for row in names()
    ]
    script = folder / "run.tcl"
    values = {**GOOD, **(outcome or {})}
    script.write_text(
        f"set names {{{' '.join(f'{{{row}}}' for row in rows)}}}\n"
        f"set prepared {prepared}\n"
        f"set ports {{{' '.join(f'{name} {way}' for name, way in ports.items())}}}\n"
        f"set outcome {{{' '.join(f'{name} {{{value}}}' for name, value in values.items())}}}\n"
        "rename puts _puts\nproc puts {args} {}\n"
        f"source {STUB}\n"
        f"set failed [catch {{source {root}/hw/boards/{board}/build.tcl}} said]\n"
        f"set file [open {folder}/log w]\n"
        "_puts $file [join $log \\n]\nclose $file\n"
        f"set file [open {folder}/said w]\n"
        "if {$failed} {_puts -nonewline $file $said}\nclose $file\n"
    )
    done = subprocess.run([*tcl_command(), str(script)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return (folder / "said").read_text(), (folder / "log").read_text().splitlines()


@pytest.mark.usefixtures("ports_only")
@pytest.mark.parametrize("ports", [1, 2, 4])
@pytest.mark.parametrize("board", ZYNQ)
def test_a_clean_checkout_becomes_a_bitstream(board: str, ports: int, tmp_path: Path) -> None:
    said, log = run(board, tmp_path, config=replace(CONFIGS[board], ports=ports, attention=False))
    assert said == ""
    assert log.index("validate_bd_design") < log.index("launch_runs synth_1 -jobs 4")
    assert "launch_runs impl_1 -jobs 4 -to_step write_bitstream" in log
    found = {path.name for path in (tmp_path / "root" / "build" / "vivado" / board).iterdir()}
    assert {"ciuic.bit", "ciuic.hwh", "ciuic.xsa", "timing.txt", "utilization.txt"} <= found


DESIGN, PACKAGE = "common/design.tcl", "common/package.tcl"
SECOND = "S_AXI_HP1/HP1_DDR_LOWOCM 0x0"
FAULTS = [
    ("a misspelt command", (DESIGN, "save_bd_design", "save_bd_desing"), "unknown command"),
    ("a misspelt parameter", ("constants.tcl", "USE_M_AXI_GP0", "USE_M_AXI_GPO"), "no CONFIG"),
    ("a misspelt pin", (DESIGN, "aresetn $inter", "aresetm $inter"), "no pin interconnect_aresetm"),
    ("a misspelt cell", (DESIGN, "$controller/irq", "axi_inct_0/irq"), "no cell axi_inct_0"),
    ("a missing IP", (DESIGN, "smartconnect:1.0", "smartconect:1.0"), "no IP"),
    ("an IP of another name", (DESIGN, "-vlnv $vlnv", "-vlnv a:b:c:1.0"), "no IP a:b:c:1.0"),
    ("an odd list", (DESIGN, "CONFIG.NUM_MI 2}", "CONFIG.NUM_MI}"), "an odd number of words"),
    (
        "a pin driven twice",
        (
            DESIGN,
            "join_pins $controller/irq",
            "join_pins $reset/peripheral_reset $instance/rst; join_pins $controller/irq",
        ),
        "ciuic/rst is driven twice",
    ),
    (
        "two drivers on a net",
        (
            DESIGN,
            "join_pins $instance/interrupt $controller/intr",
            "join_pins $instance/interrupt $controller/irq",
        ),
        "a net must have one driver, not 2",
    ),
    (
        "an unconnected clock",
        (DESIGN, " $controller/s_axi_aclk", ""),
        "s_axi_aclk is not connected",
    ),
    (
        "an unconnected reset",
        (DESIGN, "join_pins $reset/peripheral_reset $instance/rst\n", "\n"),
        "ciuic/rst is not connected",
    ),
    (
        "an unconnected interface",
        (DESIGN, "join_interfaces $interconnect/M01_AXI $controller/s_axi\n", "\n"),
        "cannot be reached",
    ),
    (
        "an interface connected twice",
        (DESIGN, "$interconnect/M01_AXI $contr", "$interconnect/M00_AXI $contr"),
        "M00_AXI is connected twice",
    ),
    (
        "two masters",
        (
            DESIGN,
            "$interconnect/M00_AXI $instance/control",
            "$interconnect/M00_AXI $instance/memory",
        ),
        "are both master",
    ),
    (
        "overlapping addresses",
        ("constants.tcl", "interrupt_controller {0x41800000", "interrupt_controller {0x40000000"),
        "overlaps ciuic/control/Reg",
    ),
    (
        "memory beyond the segment",
        ("constants.tcl", f"{SECOND} 0x20000000", f"{SECOND} 0x40000000"),
        "is not at 0",
    ),
    (
        "an address that is not aligned",
        ("constants.tcl", "control {0x40000000 0x1000}", "control {0x40000800 0x1000}"),
        "no aligned power of two",
    ),
    (
        "a segment that nobody placed",
        (DESIGN, "place $ps/Data $controller/S_AXI/Reg $interrupt_controller\n", "\n"),
        "S_AXI/Reg is not placed in processing_system7_0/Data",
    ),
    (
        "a port that is not enabled",
        ("constants.tcl", "CONFIG.PCW_USE_S_AXI_HP1 1", "CONFIG.PCW_USE_S_AXI_HP1 0"),
        "is not enabled",
    ),
    (
        "a design that was not validated",
        (DESIGN, "    validate_bd_design\n", ""),
        "the design was not validated",
    ),
    (
        "a port that the gateware has not",
        (PACKAGE, "AWADDR AWVALID", "AWADDR AWUSER AWVALID"),
        "no port control__awuser",
    ),
    ("a port in no interface", (PACKAGE, "{CLK clk}", "{}"), "port clk is in no interface"),
    (
        "an interface the wrong way round",
        (PACKAGE, "control slave AXI4LITE", "control master AXI4LITE"),
        "is an",
    ),
    (
        "registers at one address",
        ("constants.tcl", "{STATUS 0xc ", "{STATUS 0x8 "),
        "register STATUS is where CONTROL is",
    ),
    (
        "fields that overlap",
        ("constants.tcl", "{halted 1 1}", "{halted 0 2}"),
        "field halted of STATUS",
    ),
    (
        "a register beyond the block",
        ("constants.tcl", "{STATUS 0xc ", "{STATUS 0x1000 "),
        "register STATUS at 4096",
    ),
]


@pytest.mark.usefixtures("ports_only")
@pytest.mark.parametrize(("change", "message"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_in_the_scripts_is_noticed(
    change: tuple[str, str, str], message: str, tmp_path: Path
) -> None:
    said, log = run("pynq-z2", tmp_path, change=change)
    assert message in said
    assert not any(call.startswith("launch_runs") for call in log)


@pytest.mark.usefixtures("ports_only")
@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        ({"STATS.WNS": "-0.01"}, "timing is not met: setup slack is -0.01 ns (see timing.txt)"),
        ({"STATS.WHS": "-0.5"}, "timing is not met: hold slack is -0.5 ns (see timing.txt)"),
        ({"STATS.WNS": ""}, "timing is not met: setup slack is  ns (see timing.txt)"),
        ({"PROGRESS": "40%", "STATUS": "synth failed"}, "synth_1 ended with status synth failed"),
        ({"board_parts": ""}, "the board files of the KV260 are not installed: "),
    ],
)
def test_a_build_that_fails_leaves_no_bitstream(
    outcome: dict[str, str], message: str, tmp_path: Path
) -> None:
    said, _ = run("kv260", tmp_path, outcome=outcome)
    assert said.startswith(message)
    work = tmp_path / "root" / "build" / "vivado" / "kv260"
    assert not list(work.glob("ciuic.*"))
    assert (work / "timing.txt").exists() == ("timing" in message)


@pytest.mark.parametrize("board", ZYNQ)
def test_constants_agree_with_the_map_and_the_handoff_file(board: str) -> None:
    addresses, found = ADDRESS_MAPS[board], vivado.constants(BOARDS[board], CONFIGS[board])
    hwh = hwh_text(BOARDS[board], CONFIGS[board])
    for region, name in (
        (addresses.control, "control"),
        (addresses.interrupt_controller, "interrupt_controller"),
    ):
        base, span = (int(value, 16) for value in found[name])
        assert (base, span) == (region.base, region.span)
        assert f'BASEVALUE="{base:#010x}"' in hwh
    assert [row[:2] for row in found["registers"]] == [
        [one.name, f"{one.offset:#x}"] for one in registers.REGISTERS
    ]
    for key in ("vlnv", "instance", "controller", "ps_vlnv", "ps_clock", "ps_interrupt"):
        assert f'"{found[key]}"' in hwh
    for name, value in found["ps_config"].items():
        assert f'NAME="{name.removeprefix("CONFIG.")}" VALUE="{value}"' in hwh


def test_documentation_shows_the_addresses() -> None:
    text = (ROOT / "hw" / "boards" / "README.md").read_text()
    assert f"Vivado {vivado.RELEASE}" in text
    assert "not been run" in text
    for board, addresses in ADDRESS_MAPS.items():
        cells = [addresses.control, addresses.interrupt_controller, *addresses.memory]
        ranges = [f"`{region.base:#x}` to `{region.last:#x}`" for region in cells]
        row = next(line for line in text.splitlines() if line.startswith(f"| {board} |"))
        assert [one for one in ranges if one not in row] == []


def test_every_name_has_a_source() -> None:
    rows = names()
    assert all(row["source"] for row in rows)
    keys = [(row["block"], row["kind"], row["name"]) for row in rows]
    assert len(keys) == len(set(keys))
