"""The burst cutter before an AXI3 port: every beat once and in order, in pieces that are allowed.

Proven for `DEPTH` cycles after reset, with pieces of at most `MOST` beats on a 64-bit bus.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Elaboratable, Module, Signal
from ciuic_hw.zynq import memory
from ciuic_hw.zynq.memory import BurstCutter

from .prove import Counterexample, prove

pytestmark = pytest.mark.rtl

BUS, ADDRESS_BITS, MOST = 8, 16, 4
DEPTH = 12


class Properties(Elaboratable):
    """Any aligned bursts, any stalls."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = BurstCutter(
            bus_bytes=BUS, address_bits=ADDRESS_BITS, most_beats=MOST
        )
        addr, length = AnySeq(ADDRESS_BITS), AnySeq(8)
        m.d.comb += [
            dut.i.valid.eq(AnySeq(1)),
            dut.i.p.addr.eq(addr),
            dut.i.p.len.eq(length),
            dut.o.ready.eq(AnySeq(1)),
            Assume(addr[:3] == 0),
            Assume(addr + (length + 1) * BUS <= 1 << ADDRESS_BITS),
        ]
        piece = dut.o.p
        sent = dut.o.valid & dut.o.ready
        # What is left of the burst at hand.
        left, here = Signal(9), Signal(ADDRESS_BITS)
        with m.If(dut.i.valid & dut.i.ready):
            m.d.sync += [left.eq(length + 1), here.eq(addr)]
            m.d.comb += Assert((left == 0) | (sent & piece.last))
        with m.Elif(sent):
            m.d.sync += [left.eq(left - piece.len - 1), here.eq(here + (piece.len + 1) * BUS)]
        m.d.comb += Assert(dut.o.valid == (left != 0))
        with m.If(dut.o.valid):
            m.d.comb += [
                Assert(piece.addr == here),
                Assert(piece.len < MOST),
                Assert(piece.len < left),
                Assert(piece.last == (piece.len + 1 == left)),
            ]
        stalled = Signal()
        before = Signal.like(piece.as_value())
        m.d.sync += [stalled.eq(dut.o.valid & ~dut.o.ready), before.eq(piece.as_value())]
        with m.If(stalled):
            m.d.comb += [Assert(dut.o.valid), Assert(piece.as_value() == before)]
        return m


def test_pieces_are_those_of_the_bursts(tmp_path: Path) -> None:
    prove(Properties(), depth=DEPTH, folder=tmp_path)


def test_a_piece_longer_than_its_burst_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "Mux", lambda condition, low, high: high)
    with pytest.raises(Counterexample) as found:
        prove(Properties(), depth=DEPTH, folder=tmp_path)
    assert "piece." in found.value.line


def test_a_piece_that_is_too_long_is_refuted(tmp_path: Path) -> None:
    properties = Properties()
    cutter = BurstCutter(bus_bytes=BUS, address_bits=ADDRESS_BITS, most_beats=2 * MOST)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{__name__}.BurstCutter", lambda **_: cutter)
        with pytest.raises(Counterexample) as found:
            prove(properties, depth=DEPTH, folder=tmp_path)
    assert "MOST" in found.value.line
