"""Words of one width into words of another, row by row."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..arithmetic import less

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
    tag
        Shape of what goes with a row from one side to the other.

    Members
    -------
    row : In(stream)
        ``mode`` and ``last_byte`` (bytes less one) of each row, and its ``tag``.
    row_end : Out(1)
        Strobe: the last chunk of the row is on its way.
    i : In(stream)
    o : Out(stream)
        ``data`` and the row's ``tag``; ``final`` at the last word of a row. Nothing moves while it
        is not ready, so that must not wait for ``valid``.

    Latency
    -------
    Two cycles from a word of a row that is known for a cycle.
    """

    def __init__(self, modes, *, max_bytes, tag=0):
        self.modes = tuple(modes)
        row = {"mode": range(max(2, len(self.modes))), "last_byte": range(max_bytes), "tag": tag}
        word = {"data": 8 * max(o for _, o in self.modes), "final": 1, "tag": tag}
        super().__init__(
            {
                "row": In(stream.Signature(data.StructLayout(row))),
                "row_end": Out(1),
                "i": In(stream.Signature(8 * max(i for i, _ in self.modes))),
                "o": Out(stream.Signature(data.StructLayout(word))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        held = Signal(self.i.payload.shape(), reset_less=True)
        held_valid = Signal()
        word = Signal(self.o.payload.data.shape(), reset_less=True)
        mode = Signal.like(self.row.payload.mode)
        active = Signal()  # `mode`, `last` and `tag` are those of a row
        last = Signal.like(self.row.payload.last_byte)  # number of the row's last chunk
        tag = Signal.like(self.row.payload.tag, reset_less=True)
        chunk = Signal.like(last)  # number of the chunk in the row, of the size of the smaller word
        following = Signal.like(last, init=1)
        # What the chunk ends, found out a chunk ahead.
        final, input_end, output_end = Signal(), Signal(), Signal()
        free, move = self.o.ready, Signal()
        m.d.comb += [
            self.o.payload.data.eq(word),
            move.eq(held_valid & active & free),
            self.row_end.eq(move & final),
            self.i.ready.eq(~held_valid | (move & input_end)),
        ]
        with m.If(free):
            m.d.sync += [
                self.o.valid.eq(held_valid & active & output_end),
                self.o.payload.final.eq(final),
                self.o.payload.tag.eq(tag),
            ]

        coming = self._coming(m, ~active | self.row_end)
        with m.If(~active | self.row_end):
            m.d.sync += [
                active.eq(coming.valid),
                mode.eq(coming.mode),
                last.eq(coming.last),
                tag.eq(coming.tag),
                chunk.eq(0),
                following.eq(1),
                final.eq(coming.single),
            ]
            self._ends(m, coming.mode, coming.single, C(0, 1), input_end, output_end)
        with m.Elif(move):
            then_final = ~less(following, last)
            m.d.sync += [
                chunk.eq(following),
                following.eq(following + 1),
                final.eq(then_final),
            ]
            self._ends(m, mode, then_final, following, input_end, output_end)

        rest = Signal.like(held)
        with m.Switch(mode):
            for number, (input_bytes, output_bytes) in enumerate(self.modes):
                nbytes = min(input_bytes, output_bytes)
                out_bits = exact_log2(output_bytes // nbytes)
                with m.Case(number):
                    m.d.comb += rest.eq(held >> 8 * nbytes)
                    # Before the chunk moves it does not matter what is in its place.
                    for place in range(1 << out_bits):
                        with m.If(free & (chunk[:out_bits] == place)):
                            target = word.word_select(place, 8 * nbytes)
                            m.d.sync += target.eq(held[: 8 * nbytes])
        # What is loaded need not be valid, so that this does not hang on `i.valid` and `i.ready`.
        with m.If(~held_valid | move):
            m.d.sync += held.eq(Mux(~held_valid | input_end, self.i.payload, rest))
        with m.If(self.i.ready):
            m.d.sync += held_valid.eq(self.i.valid)
        return m

    def _coming(self, m, taken):
        """Return the row that comes next, and whether it is a single chunk.

        It comes in the second cycle after the last one is taken, at the earliest: nothing hangs on
        when that is.
        """
        row = self.row.payload
        coming = Signal(
            data.StructLayout(
                {
                    "valid": 1,
                    "mode": row.mode.shape(),
                    "last": row.last_byte.shape(),
                    "tag": row.tag.shape(),
                    "single": 1,
                }
            )
        )
        last = Signal.like(row.last_byte)
        with m.Switch(row.mode):
            for number, sizes in enumerate(self.modes):
                with m.Case(number):
                    m.d.comb += last.eq(row.last_byte >> exact_log2(min(sizes)))
        m.d.comb += self.row.ready.eq(~coming.valid)
        m.d.sync += coming.valid.eq(Mux(coming.valid, ~taken, self.row.valid))
        with m.If(~coming.valid):
            m.d.sync += [
                coming.mode.eq(row.mode),
                coming.last.eq(last),
                coming.tag.eq(row.tag),
                coming.single.eq(last == 0),
            ]
        return coming

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
