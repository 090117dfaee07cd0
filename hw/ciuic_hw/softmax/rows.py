"""How the engine knows where in a row it is: lengths, words, and addresses."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi.descriptors import MAX_SIZE

from ..arithmetic import countdown, less, total
from ..streams import SkidBuffer
from .layouts import span_layout

__all__ = ["RowAddresses", "RowLengths", "RowWords", "length_layout"]

LENGTH_BITS = 32  # of a length in memory


def length_layout(max_row: int) -> data.StructLayout:
    """Return the valid elements of a row, less one, and whether there is none at all."""
    return data.StructLayout({"last": range(max_row), "empty": 1})


class RowLengths(wiring.Component):
    """The valid elements of one row after the other.

    Members
    -------
    start : In(1)
        Strobe: begin with the first row of an operation.
    first, limit : In(range(max_row))
        Each less one: elements that the causal mask leaves of the first row, one more of each row
        after it, and elements of a whole row. They are there in the cycle before ``start``.
    listed : In(1)
        Rows also end where ``i`` says; constant from ``start`` on.
    i : In(stream)
        Length of each row, if ``listed``.
    o : Out(stream)
        See `length_layout`; goes on until the next ``start``.
    """

    def __init__(self, max_row):
        super().__init__(
            {
                "start": In(1),
                "first": In(range(max_row)),
                "limit": In(range(max_row)),
                "listed": In(1),
                "i": In(stream.Signature(LENGTH_BITS)),
                "o": Out(stream.Signature(length_layout(max_row))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        reach = Signal.like(self.first)
        step, known = Signal(), Signal()
        before_limit = Signal.like(reach)
        grows = Signal()  # the row after the next has more elements
        first_grows = Signal()
        # A length beyond the longest row is as good as that of the longest.
        length = data.StructLayout({"low": len(reach), "beyond": 1})
        m.submodules.length = length = SkidBuffer(length)
        m.submodules.known = clipped = SkidBuffer(self.o.payload.shape())
        low, beyond = length.o.payload.low, length.o.payload.beyond
        empty = (low == 0) & ~beyond
        listed = clipped.o.payload
        m.d.comb += [
            length.i.payload.low.eq(self.i.payload),
            length.i.payload.beyond.eq(self.i.payload[len(reach) :].any()),
            length.i.valid.eq(self.i.valid),
            self.i.ready.eq(length.i.ready),
            clipped.i.payload.empty.eq(empty),
            clipped.i.payload.last.eq(Mux(beyond, -1, Mux(empty, 0, low - 1))),
            clipped.i.valid.eq(length.o.valid),
            length.o.ready.eq(clipped.i.ready),
            step.eq(~self.o.valid | self.o.ready),
            known.eq(clipped.o.valid | ~self.listed),
            clipped.o.ready.eq(step & self.listed),
        ]
        m.d.sync += [before_limit.eq(self.limit - 1), first_grows.eq(self.first != self.limit)]
        with m.If(self.start):
            m.d.sync += [
                reach.eq(self.first),
                grows.eq(first_grows),
                self.o.valid.eq(0),
            ]
        with m.Elif(step):
            shorter = self.listed & less(listed.last, reach)
            m.d.sync += [
                self.o.valid.eq(known),
                self.o.payload.empty.eq(self.listed & listed.empty),
                self.o.payload.last.eq(Mux(shorter, listed.last, reach)),
            ]
            with m.If(known & grows):
                m.d.sync += [reach.eq(reach + 1), grows.eq(reach != before_limit)]
        return m


class RowWords(wiring.Component):
    """The current word (``lanes`` elements) of the current row.

    Parameters
    ----------
    lanes, max_row
        As in `ciuic.abi.OverlayConfig`.
    padded
        Whether the words of a row cover all its elements, or only the valid ones.

    Members
    -------
    row : In(span_layout)
        The row, constant while its words pass.
    step : In(1)
        Strobe: the word was taken, go on to the next.
    first, final : Out(1)
        The word is the first, or the last, of its row.
    beyond : Out(1)
        No element of the word is valid.
    valid : Out(lanes)
        Elements of the word that are valid.
    """

    def __init__(self, *, config, padded=False):
        self.lanes = config.lanes
        self.max_row = config.max_row
        self.padded = padded
        super().__init__(
            {
                "row": In(span_layout(config)),
                "step": In(1),
                "first": Out(1, init=1),
                "final": Out(1),
                "beyond": Out(1),
                "valid": Out(config.lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        row = self.row
        following = Signal(range(max(self.max_row // self.lanes, 2)), init=1)
        lane_bits = exact_log2(self.lanes)
        # The last word with valid elements, and the last: known a word ahead but for the first.
        tail, later_tail, later_final = Signal(), Signal(), Signal()
        m.d.comb += tail.eq(Mux(self.first, row.short, later_tail))
        single, end = (row.single, row.limit) if self.padded else (row.short, row.last)
        m.d.comb += self.final.eq(Mux(self.first, single, later_final))
        for lane in range(self.lanes):
            inside = lane <= row.last[:lane_bits]
            m.d.comb += self.valid[lane].eq(~self.beyond & (~tail | inside))
        with m.If(self.step):
            m.d.sync += [
                self.first.eq(self.final),
                following.eq(Mux(self.final, 1, following + 1)),
                later_tail.eq(following == row.last >> lane_bits),
                later_final.eq(following == end >> lane_bits),
                self.beyond.eq((self.beyond | tail) & ~self.final),
            ]
        return m


class RowAddresses(wiring.Component):
    """The address of one row after the other.

    Members
    -------
    start : In(1)
        Strobe: begin with the first row.
    base, stride : In
        Address of the first row, bytes from row to row.
    rows : In
        Number of rows, at least one.
    step : In(1)
        Strobe: go on to the next row.
    addr : Out
        Of the current row, from the second cycle behind ``step`` on.
    done : Out(1)
        There is no further row.
    """

    def __init__(self, config):
        super().__init__(
            {
                "start": In(1),
                "base": In(config.address_bits),
                "stride": In(32),
                "rows": In(range(MAX_SIZE + 1)),
                "step": In(1),
                "addr": Out(config.address_bits),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        more = countdown(m, self.rows, start=self.start, step=self.step)
        addr = total(m, self.base, self.stride, start=self.start, step=self.step)
        m.d.comb += [self.done.eq(~more), self.addr.eq(addr)]
        return m
