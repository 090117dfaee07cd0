"""How a stage knows where in a row it is: lengths, last words, and requests of memory."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..axi.ports import request_layout
from .layouts import extent_layout

__all__ = ["RowLength", "RowRequests", "RowWords"]


class RowLength(wiring.Component):
    """The length of the current row.

    Members
    -------
    start : In(1)
        Strobe: begin with the first row of ``extent``.
    extent : In(extent_layout)
    step : In(1)
        Strobe: go on to the next row.
    last : Out(range(max_row))
        Valid elements of the row, less one.
    """

    def __init__(self, max_row):
        super().__init__(
            {
                "start": In(1),
                "extent": In(extent_layout(max_row)),
                "step": In(1),
                "last": Out(range(max_row)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        with m.If(self.start):
            m.d.sync += self.last.eq(self.extent.first)
        with m.Elif(self.step & (self.last != self.extent.limit)):
            m.d.sync += self.last.eq(self.last + 1)
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
    start, extent
        As in `RowLength`.
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
                "start": In(1),
                "extent": In(extent_layout(max_row)),
                "step": In(1),
                "final": Out(1),
                "valid": Out(lanes),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.length = length = RowLength(self.max_row)
        index = Signal(range(max(self.max_row // self.lanes, 2)))
        lane_bits = exact_log2(self.lanes)
        last_word = length.last >> lane_bits
        end = self.extent.limit >> lane_bits if self.padded else last_word
        m.d.comb += [
            length.start.eq(self.start),
            length.extent.eq(self.extent),
            length.step.eq(self.step & self.final),
            self.final.eq(index == end),
        ]
        for lane in range(self.lanes):
            inside = lane <= length.last[:lane_bits]
            m.d.comb += self.valid[lane].eq((index < last_word) | ((index == last_word) & inside))
        with m.If(self.start):
            m.d.sync += index.eq(0)
        with m.Elif(self.step):
            m.d.sync += index.eq(Mux(self.final, 0, index + 1))
        return m


class RowRequests(wiring.Component):
    """Requests of memory, one a row.

    Members
    -------
    start : In(1)
        Strobe: begin with the first row.
    base, stride : In
        Address of the first row, bytes from row to row.
    rows : In(32)
        Number of rows.
    nbytes : In(32)
        Bytes of the current row.
    enable : In(1)
        The current row may be requested; once high, high until it was.
    request : Out(stream)
        As in `ciuic_hw.axi.ports`.
    done : Out(1)
        All rows have been requested.
    """

    def __init__(self, config):
        super().__init__(
            {
                "start": In(1),
                "base": In(config.address_bits),
                "stride": In(32),
                "rows": In(32),
                "nbytes": In(32),
                "enable": In(1),
                "request": Out(stream.Signature(request_layout(config))),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        left = Signal(32)
        addr = Signal.like(self.base)
        m.d.comb += [
            self.done.eq(left == 0),
            self.request.valid.eq(self.enable & ~self.done),
            self.request.payload.addr.eq(addr),
            self.request.payload.nbytes.eq(self.nbytes),
        ]
        with m.If(self.start):
            m.d.sync += [left.eq(self.rows), addr.eq(self.base)]
        with m.Elif(self.request.valid & self.request.ready):
            m.d.sync += [left.eq(left - 1), addr.eq(addr + self.stride)]
        return m
