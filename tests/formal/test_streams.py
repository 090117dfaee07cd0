"""FIFO and skid buffer: each entry leaves once, in order, unchanged.

Proven for `DEPTH` cycles after reset.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Elaboratable, Module, Signal
from ciuic_hw import streams
from ciuic_hw.streams import PipelineFifo, SkidBuffer, delay

from .prove import Counterexample, prove

pytestmark = pytest.mark.rtl

WIDTH = 2
DEPTH = 20


class FifoProperties(Elaboratable):
    """A pipeline that takes something whenever it likes and there is room, and its FIFO."""

    def __init__(self, depth: int, latency: int) -> None:
        self.depth = depth
        self.latency = latency

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = PipelineFifo(WIDTH, depth=self.depth, latency=self.latency)
        index, value = AnyConst(5), AnyConst(WIDTH)
        put = Signal()
        m.d.comb += [
            put.eq(AnySeq(1) & dut.room),
            dut.valid.eq(delay(m, put, self.latency)),
            dut.payload.eq(AnySeq(WIDTH)),
            dut.o.ready.eq(AnySeq(1)),
        ]
        entered, left = Signal(5), Signal(5)
        m.d.sync += [
            entered.eq(entered + dut.valid),
            left.eq(left + (dut.o.valid & dut.o.ready)),
        ]
        with m.If(dut.valid & (entered == index)):
            m.d.comb += Assume(dut.payload == value)
        with m.If(dut.o.valid):
            m.d.comb += Assert(left != entered)
            with m.If(left == index):
                m.d.comb += Assert(dut.o.payload == value)
        # What is in the FIFO comes out: it does not stay empty at its end.
        idle = Signal(range(8))
        with m.If((entered == left) | dut.o.valid):
            m.d.sync += idle.eq(0)
        with m.Else():
            m.d.sync += idle.eq(idle + 1)
        m.d.comb += Assert(idle < 5)
        # All of them are counted, wherever they are.
        m.d.comb += Assert(entered - left <= self.depth)
        return m


class SkidProperties(Elaboratable):
    """A skid buffer between two sides that move whenever they like."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = SkidBuffer(WIDTH, late=WIDTH)
        index, value, other = AnyConst(4), AnyConst(WIDTH), AnyConst(WIDTH)
        m.d.comb += [
            dut.i.valid.eq(AnySeq(1)),
            dut.i.p.eq(AnySeq(WIDTH)),
            dut.i_late.eq(AnySeq(WIDTH)),
            dut.o.ready.eq(AnySeq(1)),
        ]
        enters, leaves = dut.i.valid & dut.i.ready, dut.o.valid & dut.o.ready
        entered, left = Signal(4), Signal(4)
        m.d.sync += [entered.eq(entered + enters), left.eq(left + leaves)]
        with m.If(enters & (entered == index)):
            m.d.comb += [Assume(dut.i.p == value), Assume(dut.i_late == other)]
        offered = dut.o.valid & (left == index)
        with m.If(offered):
            m.d.comb += Assert(dut.o.p == value)
        with m.If(delay(m, offered, 1)):
            m.d.comb += Assert(dut.late == other)
        m.d.comb += [Assert(dut.o.valid == (entered != left)), Assert(entered - left <= 2)]
        return m


def test_skid_buffer_keeps_every_entry_and_what_comes_late(tmp_path: Path) -> None:
    prove(SkidProperties(), depth=DEPTH, folder=tmp_path)


@pytest.mark.parametrize(("depth", "latency"), [(5, 0), (7, 2)])
def test_pipeline_fifo_keeps_every_entry(depth: int, latency: int, tmp_path: Path) -> None:
    prove(FifoProperties(depth, latency), depth=DEPTH, folder=tmp_path)


def test_a_fifo_without_room_to_spare_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MARGIN", 0)
    with pytest.raises(Counterexample) as found:
        prove(FifoProperties(4, 2), depth=DEPTH, folder=tmp_path)
    assert "self.depth" in found.value.line
