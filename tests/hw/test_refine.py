"""Better places for cells: timing, rules, costs and moves."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from ciuic_hw.build.refine import delays, refine
from ciuic_hw.build.refine.cost import WIRE, Cost
from ciuic_hw.build.refine.netlist import Netlist
from ciuic_hw.build.refine.search import Search
from ciuic_hw.build.refine.sites import Sites
from ciuic_hw.build.refine.timing import Timing

from ciuic.errors import DeviceError


class Placed:
    """A design as nextpnr writes it, cell by cell."""

    def __init__(self) -> None:
        self.cells: dict[str, Any] = {}
        self.nets = 1

    def net(self) -> int:
        self.nets += 1
        return self.nets

    def add(
        self, kind: str, bel: str, pins: dict[str, int], outputs: str, **parameters: str
    ) -> int:
        """Add a cell and return its output's net."""
        net = self.net()
        self.cells[f"cell{len(self.cells)}"] = {
            "type": kind,
            "parameters": parameters,
            "attributes": {"NEXTPNR_BEL": bel, "BEL_STRENGTH": f"{1:032b}"},
            "port_directions": {**dict.fromkeys(pins, "input"), outputs: "output"},
            "connections": {**{pin: [bit] for pin, bit in pins.items()}, outputs: [net]},
        }
        return net

    def lut(self, bel: str, *nets: int, output: str = "F", **pins: int) -> int:
        names = dict(zip("ABCD", nets, strict=False))
        return self.add("TRELLIS_COMB", bel, {**names, **pins}, output)

    def ff(self, bel: str, net: int, pin: str = "M", **pins: int) -> int:
        parameters = {"CEMUX": "CE" if "CE" in pins else "1 "}
        return self.add("TRELLIS_FF", bel, {pin: net, **pins}, "Q", **parameters)

    @property
    def design(self) -> dict[str, Any]:
        return {"modules": {"top": {"settings": {"placer": "static"}, "cells": self.cells}}}

    @property
    def netlist(self) -> Netlist:
        return Netlist(self.design["modules"]["top"])


def timed(netlist: Netlist, sites: Sites | None = None) -> Timing:
    timing = Timing(netlist)
    where = sites or netlist
    timing.update(where.x, where.y)
    return timing


def test_arrivals_add_up() -> None:
    placed = Placed()
    start = placed.ff("X3/Y4/SLICEA.FF0", placed.net())
    first = placed.lut("X3/Y4/SLICEB.K1", start)
    second = placed.lut("X13/Y6/SLICEA.K0", start, first)
    placed.ff("X13/Y6/SLICEA.FF0", second, pin="DI")
    placed.ff("X13/Y36/SLICEC.FF1", placed.net(), LSR=first)
    timing = timed(placed.netlist)
    logic = 525 + delays.WIRE + 236
    assert [delays.wire(np.array(dx), np.array(dy)) for dx, dy in ((0, 0), (-3, 5), (10, 2))] == [
        670,
        670 + 3 * 68 + 5 * 106,
        670 + 5 * 68 + 5 * 44 + 2 * 106,
    ]
    pair = logic + (670 + 5 * 68 + 5 * 44 + 2 * 106) + 236  # the flip-flop follows in no time
    reset = logic + (670 + 5 * 68 + 5 * 44 + 5 * 106 + 27 * 53) + 424 - 160
    assert timing.paths().tolist() == [pair, reset]
    ways = timing.through(np.arange(len(placed.netlist.pin_net)))
    assert max(ways) == reset
    assert timing.longest_wire(int(timing.ends[1])) == timing.ends[1]


def test_a_loop_of_logic_is_refused() -> None:
    placed = Placed()
    back = placed.nets + 2
    placed.lut("X3/Y4/SLICEA.K1", placed.lut("X3/Y4/SLICEA.K0", back))
    assert placed.nets == back
    with pytest.raises(DeviceError, match="loop of logic"):
        Timing(placed.netlist)


CLOCK, RESET, ENABLE = 1001, 1002, 1003
SHARED = {"CLK": CLOCK, "LSR": RESET, "CE": ENABLE}


@pytest.mark.parametrize(
    ("mover", "there", "legal"),
    [
        (("ff", {}), ("ff", {}), (False, True, True)),
        (("ff", {}), ("ff", {"CE": 1}), (False, False, True)),
        (("ff", {}), ("ff", {"LSR": 1}), (False, False, False)),
        (("ff", {}), ("ff", {"CLK": 1}), (False, False, False)),
        (("ff", {}), ("lut", {}), (True, True, True)),
        (("ff", {}), ("lut", {"M": 1}), (False, True, True)),
        (("lut", {}), ("lut", {}), (False, True, True)),
        (("lut", {}), ("carry", {}), (False, False, True)),
        (("lut", {}), ("ff", {}), (True, True, True)),
        (("lut", {"M": 1}), ("ff", {}), (False, True, True)),
    ],
)
def test_what_may_be_beside_what(
    mover: tuple[str, dict[str, int]],
    there: tuple[str, dict[str, int]],
    legal: tuple[bool, bool, bool],
) -> None:
    """In the same half, in the other half of the slice, in another slice of the tile."""
    placed = Placed()
    for (kind, pins), x in ((mover, 2), (there, 5)):
        if kind == "ff":
            placed.ff(f"X{x}/Y2/SLICEB.FF0", placed.net(), **(SHARED | pins))
        else:
            placed.lut(f"X{x}/Y2/SLICEB.K0", placed.net(), **pins)
            if kind == "carry":
                placed.cells["cell1"]["parameters"]["MODE"] = "CCU2"
    for dz, expected in zip((0, 1, 2), legal, strict=True):
        sites = Sites(placed.netlist)
        before = sites.keep()
        assert sites.shift([(0, 3, 0, dz)]) == expected, dz
        assert sites.x.tolist() == ([5, 5] if expected else [2, 5])
        sites.restore(before)
        assert sites.shift([(1, 0, 0, 1 if sites.step(1) == 1 else 0)])  # none is left behind


def test_both_halves_of_a_wide_mux_stay_in_one_slice() -> None:
    placed = Placed()
    upper = placed.lut("X2/Y2/SLICEA.K1", placed.net())
    placed.lut("X2/Y2/SLICEA.K0", placed.net(), output="OFX", F1=upper, M=placed.net())
    placed.lut("X4/Y2/SLICEA.K0", placed.net())
    sites = Sites(placed.netlist)
    unit = placed.netlist.unit[0]
    assert placed.netlist.unit[1] == unit
    assert sites.step(unit) == 2
    assert not sites.shift([(unit, 2, 0, 1)])
    assert not sites.shift([(unit, 2, 0, 0)])
    assert sites.in_the_way(unit, 2, 0, 0) == {2}
    assert sites.in_the_way(unit, 1, 0, 0) is None  # no tile is known there
    assert sites.shift([(unit, 2, 0, 4)])
    assert [sites.bel(cell) for cell in (0, 1)] == ["X4/Y2/SLICEC.K1", "X4/Y2/SLICEC.K0"]


def test_a_ram_moves_with_its_write_port_and_the_luts_that_this_takes_up() -> None:
    placed = Placed()
    address = placed.add("TRELLIS_RAMW", "X2/Y2/SLICEC.RAMW", {}, "WADO0")
    placed.lut("X2/Y2/SLICEA.K0", placed.net(), WAD0=address)
    for half in range(2):
        placed.lut(f"X2/Y2/SLICEC.K{half}")
    placed.lut("X5/Y2/SLICED.K0", placed.net())  # a tile that can be used
    for name, mode in (("cell1", "DPRAM"), ("cell2", "RAMW_BLOCK"), ("cell3", "RAMW_BLOCK")):
        placed.cells[name]["parameters"]["MODE"] = mode
    netlist = placed.netlist
    sites, unit = Sites(netlist), netlist.unit[0]
    assert netlist.members[unit] == [0, 1, 2, 3]
    assert not sites.shift([(unit, 3, 0, 2)])
    assert sites.shift([(unit, 3, 0, 0)])
    assert [sites.bel(cell).split("/")[2] for cell in range(4)] == [
        *("SLICEC.RAMW", "SLICEA.K0", "SLICEC.K0", "SLICEC.K1")
    ]


def test_a_chain_costs_what_its_far_end_costs() -> None:
    placed = Placed()
    start = placed.ff("X2/Y2/SLICEA.FF0", placed.net())
    carry = placed.lut("X10/Y2/SLICED.K1", start, output="FCO")
    out = placed.lut("X11/Y2/SLICEA.K0", FCI=carry)
    placed.ff("X31/Y2/SLICEA.FF0", out)
    for name in ("cell1", "cell2"):
        placed.cells[name]["parameters"]["MODE"] = "CCU2"
    netlist = placed.netlist
    sites, timing = Sites(netlist), timed(netlist)
    assert netlist.members[netlist.unit[1]] == [1, 2]
    cost = Cost(netlist, sites, timing, 6000.0)
    wires = float(delays.wire(np.array(8), np.array(0)) + delays.wire(np.array(20), np.array(0)))
    length = np.array(525 + 447 + 443 + wires)
    assert timing.paths().max() == length
    both = 2 * cost.of_paths(length)  # before the chain and behind it
    here = cost.of(netlist.unit[1], np.array([10]), np.array([2]))
    assert here[0] == pytest.approx(both + WIRE * (8 + 21))


def test_memories_change_places_or_go_to_free_ones() -> None:
    placed = Placed()
    for bel in ("X4/Y22/EBR0", "X8/Y22/EBR2", "X4/Y46/EBR0"):
        placed.add("DP16KD", bel, {"ADB1": placed.net()}, "DOB0", REGMODE_B="OUTREG")
    sites = Sites(placed.netlist)
    assert sites.shift([(0, 4, 0, 0), (1, -4, 0, 0)])
    assert [sites.bel(cell) for cell in (0, 1)] == ["X8/Y22/EBR2", "X4/Y22/EBR0"]
    assert not sites.shift([(0, -4, 24, 0)])
    assert sites.shift([(0, 0, 24, 0)])  # column and row are others' ones
    assert sites.bel(0) == "X8/Y46/EBR2"


def test_multipliers_with_the_same_controls_change_places() -> None:
    placed = Placed()
    for bel, enable in (("X4/Y58/MULT18_0", 1), ("X8/Y34/MULT18_4", 1), ("X9/Y34/MULT18_5", 2)):
        placed.add("MULT18X18D", bel, {"A0": placed.net(), "CLK0": CLOCK, "CE0": enable}, "P0")
    placed.add("DP16KD", "X8/Y22/EBR2", {"ADB1": placed.net()}, "DOB0")
    sites = Sites(placed.netlist)
    assert not sites.shift([(0, 5, -24, 0), (2, -5, 24, 0)])  # their enables differ
    assert not sites.shift([(0, 0, -24, 0)])  # none was there
    assert not sites.shift([(0, 4, -36, 0), (3, -4, 36, 0)])  # that is a memory
    assert sites.in_the_way(0, 4, -24, 0) == {1}
    assert sites.shift([(0, 4, -24, 0), (1, -4, 24, 0)])
    assert [sites.bel(cell) for cell in (0, 1)] == ["X8/Y34/MULT18_4", "X4/Y58/MULT18_0"]


def anything(seed: int, cells: int = 250, side: int = 16) -> Placed:
    """Return a design of LUTs, flip-flops and both together, wired and placed at random."""
    chosen = random.Random(seed)
    placed, driven = Placed(), []
    halves = [
        f"X{x}/Y{y}/SLICE{piece}.{{}}{half}"
        for x in range(2, 2 + side)
        for y in range(2, 2 + side)
        for piece in "ABCD"
        for half in "01"
    ]
    chosen.shuffle(halves)
    enables: dict[str, int | None] = {}  # of slices

    def ff(half: str, net: int, pin: str, enable: int | None) -> int:
        enable = enables.setdefault(half.split(".")[0], enable)
        pins = {} if enable is None else {"CE": enable}
        return placed.ff(half.format("FF"), net, pin=pin, CLK=CLOCK, **pins)

    for _ in range(20):
        driven.append(ff(halves.pop(), placed.net(), "M", None))
    for _ in range(cells):
        half = halves.pop()
        nets = chosen.sample(driven[-60:], min(chosen.randint(1, 4), len(driven)))
        kind = chosen.choice(("lut", "ff", "both"))
        net = nets[0] if kind == "ff" else placed.lut(half.format("K"), *nets)
        if kind != "lut":
            net = ff(half, net, "M" if kind == "ff" else "DI", chosen.choice(driven))
        driven.append(net)
    return placed


@pytest.mark.parametrize("seed", range(5))
def test_a_cost_is_what_the_place_costs_once_it_is_timed(seed: int) -> None:
    netlist = anything(seed).netlist
    sites, timing = Sites(netlist), Timing(netlist)
    timing.update(sites.x, sites.y)
    cost = Cost(netlist, sites, timing, 20000.0)
    chosen, checked = random.Random(seed), 0
    for unit in chosen.sample(list(netlist.members), 120):
        x, y, z = sites.corner(unit)
        column, row, half = (chosen.randrange(2, 18), chosen.randrange(2, 18), chosen.randrange(8))
        expected = cost.of(unit, np.array([x, column]), np.array([y, row]))
        before = sites.keep()
        if not sites.shift([(unit, column - x, row - y, half - z)]):
            continue
        own = set(netlist.members[unit])
        pins = [
            pin
            for pin, (net, cell) in enumerate(zip(netlist.pin_net, netlist.pin_cell, strict=True))
            if (netlist.driver[net] in own) != (cell in own)
        ]
        timing.update(sites.x, sites.y)
        paths = cost.of_paths(timing.through(np.array(pins, np.int64))).sum()
        grown = 0
        for net in {netlist.pin_net[pin] for pin in pins}:
            ends = [netlist.driver[net], *(netlist.pin_cell[pin] for pin in netlist.fanout[net])]
            others = [cell for cell in ends if cell not in own]
            for at, here in ((sites.x[others], column), (sites.y[others], row)):
                grown += max(int(at.min()) - here, here - int(at.max()), 0)
        assert expected[1] == pytest.approx(paths + WIRE * grown)
        sites.restore(before)
        timing.update(sites.x, sites.y)
        checked += 1
    assert checked > 20


@pytest.mark.parametrize("seed", range(3))
def test_paths_get_shorter_and_nothing_else_changes(seed: int) -> None:
    placed = anything(seed)
    far = placed.lut("X90/Y80/SLICEA.K0", placed.nets)
    placed.ff("X90/Y80/SLICEB.FF0", far, CLK=CLOCK)
    before = copy.deepcopy(placed.cells)
    first, last = refine(placed.design, 3000.0)
    assert first > 8000
    assert last < 0.75 * first
    netlist = placed.netlist
    assert last == timed(netlist).paths().max()
    assert len(set(netlist.bels)) == len(netlist.bels)
    for unit, members in netlist.members.items():
        sites = Sites(netlist)
        assert sites.shift([(unit, 0, 0, 0)]), members  # each is where it may be, among all others
    for name, cell in placed.cells.items():
        attributes = cell.pop("attributes"), before[name].pop("attributes")
        assert cell == before[name]
        assert attributes[0]["BEL_STRENGTH"] == f"{5:032b}"


def test_a_group_goes_where_no_member_goes_alone() -> None:
    """Flip-flops far from what enables them, and the LUT between, hold one another in place."""
    placed = Placed()
    start = placed.add("DP16KD", "X2/Y2/EBR0", {}, "DOB0", REGMODE_B="OUTREG")  # the only site
    for x in range(3, 80):
        placed.ff(f"X{x}/Y2/SLICED.FF1", placed.net(), CLK=CLOCK)  # tiles that can be used
    gate = placed.lut("X78/Y2/SLICEA.K0", start)
    for number in range(6):
        half = f"X79/Y2/SLICE{'ABC'[number // 2]}"
        placed.ff(f"{half}.FF{number % 2}", placed.nets, CLK=CLOCK, CE=gate)
    search = Search(placed.netlist, 3500.0)
    longest = search.timing.paths().max()
    while search.sweep():
        pass
    alone = search.timing.paths().max()
    assert search.regroup(5) > 0
    assert search.timing.paths().max() < min(alone, longest) - 1000


@pytest.mark.parametrize("seed", range(3))
def test_no_group_moves_that_makes_the_whole_dearer(seed: int, monkeypatch: Any) -> None:
    search = Search(anything(seed).netlist, 8000.0)
    monkeypatch.setattr(search, "improve", lambda unit: False)  # groups alone
    bring_together, moved = search._bring_together, []

    def checked(one: int, other: int) -> bool:
        before = search.cost.total()
        moved.append(bring_together(one, other))
        after = search.cost.total()
        assert after < before if moved[-1] else after == before
        return moved[-1]

    monkeypatch.setattr(search, "_bring_together", checked)
    for _ in range(3):
        search.regroup(4)
    assert any(moved)
