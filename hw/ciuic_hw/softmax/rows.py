"""How the engine knows where in a row it is: lengths, words, and addresses."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi.descriptors import MAX_SIZE

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
        after it, and elements of a whole row.
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
        step, known, shorter = Signal(), Signal(), Signal()
        length = self.i.payload
        m.d.comb += [
            step.eq(~self.o.valid | self.o.ready),
            known.eq(self.i.valid | ~self.listed),
            self.i.ready.eq(step & self.listed),
            shorter.eq(self.listed & (length <= reach)),
        ]
        with m.If(self.start):
            m.d.sync += [reach.eq(self.first), self.o.valid.eq(0)]
        with m.Elif(step):
            m.d.sync += [
                self.o.valid.eq(known),
                self.o.payload.empty.eq(shorter & (length == 0)),
                self.o.payload.last.eq(Mux(shorter, Mux(length == 0, 0, length - 1), reach)),
            ]
            with m.If(known & (reach != self.limit)):
                m.d.sync += reach.eq(reach + 1)
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
    last, limit : In(range(max_row))
        As in `result_row_layout`, constant while the row's words pass.
    step : In(1)
        Strobe: the word was taken, go on to the next.
    final : Out(1)
        The word is the last of its row.
    valid : Out(lanes)
        Elements of the word that are valid.
    """

    def __init__(self, *, lanes, max_row, padded=False):
        self.lanes = lanes
        self.max_row = max_row
        self.padded = padded
        super().__init__(
            {
                "last": In(range(max_row)),
                "limit": In(range(max_row)),
                "step": In(1),
                "final": Out(1),
                "valid": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        index = Signal(range(max(self.max_row // self.lanes, 2)))
        lane_bits = exact_log2(self.lanes)
        last_word = self.last >> lane_bits
        end = self.limit >> lane_bits if self.padded else last_word
        m.d.comb += self.final.eq(index == end)
        for lane in range(self.lanes):
            inside = lane <= self.last[:lane_bits]
            m.d.comb += self.valid[lane].eq((index < last_word) | ((index == last_word) & inside))
        with m.If(self.step):
            m.d.sync += index.eq(Mux(self.final, 0, index + 1))
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
        Number of rows.
    step : In(1)
        Strobe: go on to the next row.
    addr : Out
        Of the current row.
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
                "done": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal.like(self.rows)
        m.d.comb += self.done.eq(left == 0)
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), self.addr.eq(self.base)]
        with m.Elif(self.step):
            m.d.sync += [left.eq(left - 1), self.addr.eq(self.addr + self.stride)]
        return m
