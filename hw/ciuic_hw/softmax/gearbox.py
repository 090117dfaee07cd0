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
    row : In(stream)
        ``mode`` and ``last_byte`` (bytes less one) of each row.
    row_end : Out(1)
        Strobe: the last chunk of the row is on its way.
    i : In(stream)
    o : Out(stream)
        ``data``; ``final`` at the last word of a row.

    Latency
    -------
    Two cycles from a word of a row that is known.
    """

    def __init__(self, modes, *, max_bytes):
        self.modes = tuple(modes)
        row = data.StructLayout(
            {"mode": range(max(2, len(self.modes))), "last_byte": range(max_bytes)}
        )
        output = data.StructLayout({"data": 8 * max(o for _, o in self.modes), "final": 1})
        super().__init__(
            {
                "row": In(stream.Signature(row)),
                "row_end": Out(1),
                "i": In(stream.Signature(8 * max(i for i, _ in self.modes))),
                "o": Out(stream.Signature(output)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        held = Signal.like(self.i.payload)
        held_valid = Signal()
        mode = Signal.like(self.row.payload.mode)
        active = Signal()  # `mode` and `last` are those of a row
        last = Signal.like(self.row.payload.last_byte)  # number of the row's last chunk
        chunk = Signal.like(last)  # number of the chunk in the row, of the size of the smaller word
        following = Signal.like(last, init=1)
        # What the chunk ends, found out a chunk ahead.
        final, input_end, output_end = Signal(), Signal(), Signal()
        move = Signal()
        m.d.comb += [
            move.eq(held_valid & active & (~self.o.valid | self.o.ready)),
            self.row_end.eq(move & final),
            self.row.ready.eq(~active | self.row_end),
            self.i.ready.eq(~held_valid | (move & input_end)),
        ]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(output_end), self.o.payload.final.eq(final)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)

        coming = Signal.like(last)
        with m.If(self.row.ready):
            m.d.sync += [
                active.eq(self.row.valid),
                mode.eq(self.row.payload.mode),
                last.eq(coming),
                chunk.eq(0),
                following.eq(1),
                final.eq(coming == 0),
            ]
            self._ends(m, self.row.payload.mode, coming == 0, C(0, 1), input_end, output_end)
        with m.Elif(move):
            m.d.sync += [
                chunk.eq(following),
                following.eq(following + 1),
                final.eq(following == last),
            ]
            self._ends(m, mode, following == last, following, input_end, output_end)
        with m.Switch(self.row.payload.mode):
            for number, sizes in enumerate(self.modes):
                with m.Case(number):
                    m.d.comb += coming.eq(self.row.payload.last_byte >> exact_log2(min(sizes)))

        with m.Switch(mode):
            for number, (input_bytes, output_bytes) in enumerate(self.modes):
                nbytes = min(input_bytes, output_bytes)
                out_bits = exact_log2(output_bytes // nbytes)
                with m.Case(number):
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

    def _ends(self, m, mode, final, chunk, input_end, output_end):
        """Register whether a chunk ends a word of the input, and one of the output."""
        with m.Switch(mode):
            for number, (input_bytes, output_bytes) in enumerate(self.modes):
                nbytes = min(input_bytes, output_bytes)
                with m.Case(number):
                    for end, word_bytes in ((input_end, input_bytes), (output_end, output_bytes)):
                        bits = exact_log2(word_bytes // nbytes)
                        m.d.sync += end.eq(_all_ones(chunk, bits) | final)


def _all_ones(value, bits):
    """Return whether the low bits of a value are all set; so they are where there are none."""
    return Cat(value[index] if index < len(value) else C(0, 1) for index in range(bits)).all()
