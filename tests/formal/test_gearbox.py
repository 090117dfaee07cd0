"""The gearbox: every byte of every row once and in order, rows begin and end with a word.

Proven for `DEPTH` cycles after reset, for rows of up to `ROW_BYTES` bytes: one byte of one row,
whichever it is, is followed from one side to the other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[dev]'")

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Array, Assert, Assume, Elaboratable, Module, Signal
from ciuic_hw.softmax.gearbox import Gearbox

from .prove import Counterexample, prove

pytestmark = pytest.mark.rtl

ROWS = 4  # then their numbers, and lengths, come again
ROW_BYTES = 8
DEPTH = 12
MODES = ((4, 1), (1, 4), (2, 2))  # bytes of a word at the input and at the output


class Follower:
    """Where a side of the gearbox is: its row, the first byte of its word, whether it ends it."""

    def __init__(self, name: str) -> None:
        self.row = Signal(range(ROWS), name=f"{name}_row")
        self.byte = Signal(range(ROW_BYTES), name=f"{name}_byte")
        self.final = Signal(name=f"{name}_final")


class Properties(Elaboratable):
    """Rows of any lengths, any stalls."""

    def __init__(self, mode: int) -> None:
        self.mode = mode

    def elaborate(self, platform: object) -> Module:
        m = Module()
        input_bytes, output_bytes = MODES[self.mode]
        m.submodules.dut = dut = Gearbox(MODES, max_bytes=ROW_BYTES)
        last_bytes = Array(AnyConst(3) for _ in range(ROWS))
        row, byte, value = AnyConst(2), AnyConst(3), AnyConst(8)
        m.d.comb += [
            dut.i.valid.eq(AnySeq(1)),
            dut.row.valid.eq(AnySeq(1)),
            dut.row.payload.mode.eq(self.mode),
            dut.i.payload.eq(AnySeq(8 * input_bytes)),
            dut.o.ready.eq(AnySeq(1)),
            Assume(byte <= last_bytes[row]),
        ]
        moving = Signal(range(ROWS))
        m.d.sync += moving.eq(moving + (dut.row.valid & dut.row.ready))
        m.d.comb += dut.row.payload.last_byte.eq(last_bytes[moving])

        entered = self._follow(m, dut.i, input_bytes, last_bytes, "entered")
        left = self._follow(m, dut.o, output_bytes, last_bytes, "left")
        for place in range(input_bytes):
            here = (entered.row == row) & (entered.byte + place == byte)
            with m.If(dut.i.valid & here):
                m.d.comb += Assume(dut.i.payload.word_select(place, 8) == value)
        with m.If(dut.o.valid):
            m.d.comb += Assert(dut.o.payload.final == left.final)
            for place in range(output_bytes):
                here = (left.row == row) & (left.byte + place == byte)
                with m.If(here):
                    m.d.comb += Assert(dut.o.payload.data.word_select(place, 8) == value)
        return m

    def _follow(self, m: Module, port: Any, nbytes: int, last_bytes: Array, name: str) -> Follower:
        follower = Follower(name)
        m.d.comb += follower.final.eq(follower.byte + nbytes > last_bytes[follower.row])
        with m.If(port.valid & port.ready):
            with m.If(follower.final):
                m.d.sync += [follower.row.eq(follower.row + 1), follower.byte.eq(0)]
            with m.Else():
                m.d.sync += follower.byte.eq(follower.byte + nbytes)
        return follower


@pytest.mark.parametrize("mode", range(len(MODES)))
def test_every_byte_is_kept(mode: int, tmp_path: Path) -> None:
    prove(Properties(mode), depth=DEPTH, folder=tmp_path)


class WrongMode(Properties):
    """The words are followed in one mode, the gearbox is in another."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.comb += m.submodules.dut.row.payload.mode.eq(self.mode - 1)
        return m


def test_a_gearbox_in_another_mode_is_refuted(tmp_path: Path) -> None:
    with pytest.raises(Counterexample) as found:
        prove(WrongMode(1), depth=DEPTH, folder=tmp_path)
    assert "dut.o.payload" in found.value.line
