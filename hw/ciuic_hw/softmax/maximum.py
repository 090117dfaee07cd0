"""First stage: the largest score of each row."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import numerics

from ..arithmetic import less
from ..streams import delay
from .layouts import SCORE, words_layout
from .rows import RowWords

__all__ = ["MaximumStage"]


class MaximumStage(wiring.Component):
    """Pass words of scores on and find the largest valid one of each row.

    Members
    -------
    row : In(stream)
        See `words_layout`.
    i : In(stream)
        Words of ``lanes`` scores, of rows that are not empty.
    room : In(1)
        Both outputs have room.
    taken : Out(1)
        The word at ``i`` is taken in this cycle, or the only one of an empty row.
    row_end : Out(1)
        It is the last of its row.
    valid : Out(1)
        ``maximum`` is that of one more row, in order.
    maximum : Out(signed(32))

    Latency
    -------
    ``latency`` cycles from the row's last word to ``valid``.
    """

    def __init__(self, config):
        self.config = config
        self.lanes = config.lanes
        super().__init__(
            {
                "row": In(stream.Signature(words_layout(config))),
                "i": In(stream.Signature(data.ArrayLayout(SCORE, config.lanes))),
                "room": In(1),
                "taken": Out(1),
                "row_end": Out(1),
                "valid": Out(1),
                "maximum": Out(SCORE),
            }
        )

    @property
    def latency(self):
        """Cycles from the last word to the maximum."""
        return 2 * exact_log2(self.lanes) + 3

    def elaborate(self, platform):
        m = Module()
        row = self.row.payload
        may = Signal()
        m.submodules.words = words = RowWords(config=self.config)
        m.d.comb += [
            words.row.eq(row.span),
            words.step.eq(self.taken),
            may.eq(self.room & self.row.valid),
            self.taken.eq(may & (self.i.valid | row.empty)),
            self.i.ready.eq(may & ~row.empty),
            self.row_end.eq(self.taken & words.final),
            self.row.ready.eq(self.row_end),
        ]

        def pipe(value):
            return delay(m, value, 1, reset_less=True)

        scores, inside, empty = pipe(self.i.payload), pipe(words.valid), pipe(row.empty)
        candidates = [
            pipe(Mux(inside[lane] & ~empty, scores[lane], numerics.INT32_MIN))
            for lane in range(self.lanes)
        ]
        while len(candidates) > 1:  # compared in one cycle, chosen in the next
            candidates = [
                pipe(Mux(pipe(less(other, one)), pipe(one), pipe(other)))
                for one, other in zip(candidates[::2], candidates[1::2], strict=True)
            ]
        depth = self.latency - 1
        taken = delay(m, self.taken, depth)
        final = delay(m, self.row_end, depth)

        running, largest = Signal(SCORE, reset_less=True), Signal(SCORE)
        fresh = Signal(init=1)  # what comes is of another row than `running`
        larger = fresh | less(running, candidates[0])
        m.d.comb += [
            largest.eq(Mux(larger, candidates[0], running)),
            self.maximum.eq(pipe(largest)),
        ]
        m.d.sync += self.valid.eq(final)
        with m.If(taken):
            m.d.sync += [running.eq(largest), fresh.eq(final)]
        return m
