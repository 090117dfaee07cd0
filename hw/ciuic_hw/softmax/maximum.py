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
        return 2 * exact_log2(self.lanes) + 6

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

        scores, inside = pipe(self.i.payload), pipe(words.valid)
        some = pipe(self.taken & ~row.empty)
        candidates = [
            pipe(Mux(inside[lane] & some, scores[lane], numerics.INT32_MIN))
            for lane in range(self.lanes)
        ]
        while len(candidates) > 1:  # compared in one cycle, chosen in the next
            candidates = [
                pipe(Mux(pipe(less(other, one)), pipe(one), pipe(other)))
                for one, other in zip(candidates[::2], candidates[1::2], strict=True)
            ]
        # A word, or none, comes in every cycle: the larger one of it and the one before is compared
        # with what was the largest two cycles ago, so that there is a cycle to choose, too.
        word = candidates[0]
        taken, final = (delay(m, one, self.latency - 4) for one in (self.taken, self.row_end))
        fresh = Signal(init=1)  # nothing of the row came before
        with m.If(taken):
            m.d.sync += fresh.eq(final)
        larger = pipe(fresh | less(pipe(word), word))
        both = pipe(Mux(larger, pipe(word), delay(m, word, 2, reset_less=True)))
        largest = Signal(SCORE, reset_less=True)
        alone = delay(m, fresh | delay(m, fresh, 1), 2)  # nor before the word ahead of it
        beyond = pipe(alone | less(largest, both))
        m.d.sync += largest.eq(Mux(beyond, pipe(both), pipe(largest)))
        m.d.comb += [self.maximum.eq(largest), self.valid.eq(delay(m, final, 4))]
        return m
