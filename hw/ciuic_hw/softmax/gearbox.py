"""Words of one width into words of another, row by row."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

__all__ = ["Gearbox"]


class Gearbox(wiring.Component):
    """Regroup the bytes of rows.

    A row begins with a fresh word on both sides and ends with a word that may be partly filled.
    In each cycle the smaller of the two words moves, so the narrower side sees no idle cycle.

    Parameters
    ----------
    modes
        For each mode the bytes of a word at the input and at the output, powers of two.
    max_bytes
        Bytes of the longest row.

    Members
    -------
    mode : In
        Constant while a row passes.
    enable : In(1)
        ``mode`` and ``last_byte`` are those of the current row.
    last_byte : In(range(max_bytes))
        Bytes of the current row, less one.
    row_end : Out(1)
        Strobe: the next cycle belongs to the next row.
    i : In(stream)
    o : Out(stream)
        ``data``; ``final`` at the last word of a row.

    Latency
    -------
    Two cycles.
    """

    def __init__(self, modes, *, max_bytes):
        self.modes = tuple(modes)
        output = data.StructLayout({"data": 8 * max(o for _, o in self.modes), "final": 1})
        super().__init__(
            {
                "mode": In(range(max(2, len(self.modes)))),
                "enable": In(1, init=1),
                "last_byte": In(range(max_bytes)),
                "row_end": Out(1),
                "i": In(stream.Signature(8 * max(i for i, _ in self.modes))),
                "o": Out(stream.Signature(output)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        held = Signal.like(self.i.payload)
        held_valid = Signal()
        chunk = Signal.like(self.last_byte)  # position in the row, in units of the smaller word
        final = Signal()
        input_end = Signal()
        output_end = Signal()
        move = Signal()
        m.d.comb += [
            move.eq(held_valid & self.enable & (~self.o.valid | self.o.ready)),
            self.row_end.eq(move & final),
            self.i.ready.eq(~held_valid | (move & input_end)),
        ]
        with m.If(move):
            m.d.sync += [
                chunk.eq(Mux(final, 0, chunk + 1)),
                self.o.valid.eq(output_end),
                self.o.payload.final.eq(final),
            ]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        with m.Switch(self.mode):
            for mode, (input_bytes, output_bytes) in enumerate(self.modes):
                nbytes = min(input_bytes, output_bytes)
                in_bits = exact_log2(input_bytes // nbytes)
                out_bits = exact_log2(output_bytes // nbytes)
                with m.Case(mode):
                    m.d.comb += [
                        final.eq(chunk == self.last_byte >> exact_log2(nbytes)),
                        input_end.eq(chunk[:in_bits].all() | final),
                        output_end.eq(chunk[:out_bits].all() | final),
                    ]
                    with m.If(move):
                        m.d.sync += held.eq(held >> 8 * nbytes)
                    for place in range(1 << out_bits):
                        with m.If(move & (chunk[:out_bits] == place)):
                            target = self.o.payload.data.word_select(place, 8 * nbytes)
                            m.d.sync += target.eq(held[: 8 * nbytes])

        with m.If(self.i.valid & self.i.ready):
            m.d.sync += [held.eq(self.i.payload), held_valid.eq(1)]
        with m.Elif(self.i.ready):
            m.d.sync += held_valid.eq(0)
        return m
