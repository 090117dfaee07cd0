"""First stage: the largest score of each row."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import numerics

from .layouts import SCORE, extent_layout
from .pipeline import delay
from .rows import RowWords

__all__ = ["MaximumStage"]


class MaximumStage(wiring.Component):
    """Pass words of scores on and find the largest valid one of each row.

    Members
    -------
    start, extent
        As in `RowLength`.
    i : In(stream)
        Words of ``lanes`` scores.
    room : In(1)
        Both outputs have room.
    taken : Out(1)
        The word at ``i`` is taken in this cycle.
    valid : Out(1)
        ``maximum`` is that of one more row, in order.
    maximum : Out(signed(32))

    Latency
    -------
    ``latency`` cycles from the row's last word to ``valid``.
    """

    def __init__(self, config):
        self.lanes = config.lanes
        self.max_row = config.max_row
        super().__init__(
            {
                "start": In(1),
                "extent": In(extent_layout(config.max_row)),
                "i": In(stream.Signature(data.ArrayLayout(SCORE, config.lanes))),
                "room": In(1),
                "taken": Out(1),
                "valid": Out(1),
                "maximum": Out(SCORE),
            }
        )

    @property
    def latency(self):
        """Cycles from the last word to the maximum."""
        return exact_log2(self.lanes) + 2

    def elaborate(self, platform):
        m = Module()
        m.submodules.words = words = RowWords(lanes=self.lanes, max_row=self.max_row)
        m.d.comb += [
            words.start.eq(self.start),
            words.extent.eq(self.extent),
            self.i.ready.eq(self.room),
            self.taken.eq(self.i.valid & self.i.ready),
            words.step.eq(self.taken),
        ]

        candidates = [
            self._register(m, Mux(words.valid[lane], self.i.payload[lane], numerics.INT32_MIN))
            for lane in range(self.lanes)
        ]
        while len(candidates) > 1:
            candidates = [
                self._register(m, Mux(one > other, one, other))
                for one, other in zip(candidates[::2], candidates[1::2], strict=True)
            ]
        depth = self.latency - 1
        taken = delay(m, self.taken, depth)
        final = delay(m, words.final, depth)

        running = Signal(SCORE, init=numerics.INT32_MIN)
        largest = Signal(SCORE)
        m.d.comb += largest.eq(Mux(candidates[0] > running, candidates[0], running))
        m.d.sync += [self.valid.eq(taken & final), self.maximum.eq(largest)]
        with m.If(taken):
            m.d.sync += running.eq(Mux(final, numerics.INT32_MIN, largest))
        return m

    @staticmethod
    def _register(m, score):
        register = Signal(SCORE)
        m.d.sync += register.eq(score)
        return register
