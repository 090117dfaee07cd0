"""The burst splitter: every beat of every request once and in order, no burst across 4 KiB.

Proven for `DEPTH` cycles after reset, with bursts of at most `MAX_BURST` beats on a 64-bit bus.
"""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Cat, Elaboratable, Module, Mux, Signal
from ciuic_hw.axi import splitter
from ciuic_hw.axi.splitter import BurstSplitter

from ciuic.abi import OverlayConfig

from .prove import Counterexample, prove

pytestmark = pytest.mark.rtl

CONFIG = OverlayConfig(name="formal", rows=8, cols=8)
BUS, BOUNDARY = CONFIG.bus_bytes, 4096
MAX_BURST = 4
MOST_BYTES = 1 << 7  # of a request: four bursts and more
DEPTH = 12


class Request:
    """What is left of a request: where its next burst must start, and its beats."""

    def __init__(self, name: str) -> None:
        self.active = Signal(name=f"{name}_active")
        self.addr = Signal(CONFIG.address_bits, name=f"{name}_addr")
        self.beats = Signal(32, name=f"{name}_beats")
        self.tail = Signal(3, name=f"{name}_tail")
        self.all = Cat(self.active, self.addr, self.beats, self.tail)


class Properties(Elaboratable):
    """Any requests, any stalls. The splitter holds two requests at most: one leaves, one waits."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.dut = dut = BurstSplitter(CONFIG, max_burst=MAX_BURST)
        burst = dut.burst
        addr, nbytes = AnySeq(CONFIG.address_bits), AnySeq(32)
        m.d.comb += [
            dut.request.valid.eq(AnySeq(1)),
            dut.request.p.addr.eq(addr),
            dut.request.p.nbytes.eq(nbytes),
            burst.ready.eq(AnySeq(1)),
            Assume(addr[:3] == 0),
            Assume(addr < (1 << CONFIG.address_bits) - MOST_BYTES),
            Assume((nbytes >= 1) & (nbytes <= MOST_BYTES)),
        ]
        asked = dut.request.valid & dut.request.ready
        sent = burst.valid & burst.ready

        first, second, coming = Request("first"), Request("second"), Request("coming")
        m.d.comb += [
            coming.active.eq(asked),
            coming.addr.eq(addr),
            coming.beats.eq((nbytes + BUS - 1) >> 3),
            coming.tail.eq(nbytes - 1),
        ]
        done = sent & (burst.p.beats == first.beats)
        with m.If(sent):
            m.d.sync += [
                first.addr.eq(first.addr + burst.p.beats * BUS),
                first.beats.eq(first.beats - burst.p.beats),
            ]
        with m.If(done | ~first.active):
            m.d.sync += first.all.eq(Mux(second.active, second.all, coming.all))
            m.d.sync += second.all.eq(Mux(second.active, coming.all, 0))
        with m.Elif(asked):
            m.d.sync += second.all.eq(coming.all)

        with m.If(burst.valid):
            m.d.comb += [
                Assert(first.active),
                Assert(burst.p.addr == first.addr),
                Assert((burst.p.beats >= 1) & (burst.p.beats <= MAX_BURST)),
                Assert(burst.p.beats <= first.beats),
                Assert(burst.p.last == (burst.p.beats == first.beats)),
                Assert(burst.p.tail == first.tail),
                Assert(burst.p.addr[:12] + burst.p.beats * BUS <= BOUNDARY),
            ]
        stalled = Signal()
        before = Signal.like(burst.p.as_value())
        m.d.sync += [stalled.eq(burst.valid & ~burst.ready), before.eq(burst.p.as_value())]
        with m.If(stalled):
            m.d.comb += [Assert(burst.valid), Assert(burst.p.as_value() == before)]

        # A request that is there is being worked on: nothing waits for ever.
        idle = Signal(range(8))
        m.d.sync += idle.eq(Mux(first.active & ~burst.valid, idle + 1, 0))
        m.d.comb += Assert(idle < 5)
        return m


def test_bursts_are_those_of_the_requests(tmp_path: Path) -> None:
    prove(Properties(), depth=DEPTH, folder=tmp_path)


def test_bursts_up_to_8_kib_are_refuted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splitter, "BOUNDARY_BYTES", 8192)
    with pytest.raises(Counterexample) as found:
        prove(Properties(), depth=DEPTH, folder=tmp_path)
    assert "BOUNDARY" in found.value.line


def test_a_burst_longer_than_its_request_is_refuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splitter, "Mux", lambda condition, low, high: high)
    with pytest.raises(Counterexample) as found:
        prove(Properties(), depth=DEPTH, folder=tmp_path)
    assert "burst.p." in found.value.line
