"""Second stage: exponentials of the distances from the largest score, and their sum."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import numerics

from ..attention.ports import EXPONENT_BITS, LanesPort
from ..streams import delay
from .layouts import (
    EXPONENTIAL,
    EXPONENTIAL_LATE,
    RECIPROCAL,
    SCORE,
    sum_bits,
    words_layout,
)
from .reciprocal import Reciprocal
from .rows import RowWords
from .table import Interpolator

__all__ = ["ExponentialLane", "ExponentialStage", "RowSum"]

SHIFT = range(numerics.MAX_SHIFT + 1)


class ExponentialLane(wiring.Component):
    """One exponential a cycle, in two halves that may also be used by themselves.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    score : In(signed(32))
    inside : In(1)
        The element is valid; the exponential of others is zero.
    maximum, multiplier, shift : In
        A cycle behind the element: the largest of its row, and its scale.
    o : Out(EXPONENTIAL)
    exponent : Out(EXPONENT_BITS)
        The first half: the distance times the scale, ``ExponentialLane.exponent_latency`` cycles
        later.
    apart : In(1)
        The halves take the following instead.
    distance : In(32)
        Its scale comes a cycle behind it, its ``exponent`` after as many as that of a score.
    position : In(EXPONENT_FRACTION)
        ``o.mantissa`` is there ``Interpolator.latency`` cycles later.

    Latency
    -------
    ``ExponentialLane.latency`` cycles.
    """

    exponent_latency = 9
    latency = exponent_latency + Interpolator.latency

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "score": In(SCORE),
                "inside": In(1),
                "maximum": In(SCORE),
                "multiplier": In(numerics.MULTIPLIER_BITS),
                "shift": In(SHIFT),
                "o": Out(EXPONENTIAL),
                "exponent": Out(EXPONENT_BITS),
                "apart": In(1),
                "distance": In(32),
                "position": In(numerics.EXPONENT_FRACTION),
            }
        )

    def elaborate(self, platform):
        m = Module()
        distance = Signal(numerics.DISTANCE_BITS, reset_less=True)
        outside = Signal(reset_less=True)
        # Scores come from block RAM, which is slow to answer.
        score, inside, given = (
            delay(m, value, 1, reset_less=True)
            for value in (self.score, self.inside, self.distance)
        )
        m.d.sync += [
            distance.eq(Mux(self.apart, given, self.maximum - score)),
            outside.eq(~inside & ~self.apart),
        ]

        exponent = Signal(EXPONENT_BITS)
        shift = delay(m, self.shift, 1, reset_less=True)
        m.d.comb += [
            self.exponent.eq(self._exponent(m, distance, outside, shift)),
            exponent.eq(Mux(self.apart, self.position, self.exponent)),
        ]
        halvings = exponent[numerics.EXPONENT_FRACTION :]
        table = Interpolator(
            self.config, numerics.exp2_table(), value_bits=numerics.MANTISSA_FRACTION + 1
        )
        m.submodules.exp2 = table
        far = delay(m, halvings >= numerics.EXPONENT_LIMIT, table.latency, reset_less=True)
        few = delay(m, halvings[: len(self.o.halvings)], table.latency, reset_less=True)
        m.d.comb += [
            table.position.eq(exponent),
            self.o.mantissa.eq(Mux(far, 0, table.value)),
            self.o.halvings.eq(few),
        ]
        return m

    def _exponent(self, m, distance, outside, shift):
        """Return the distance times the scale, seven cycles later; saturated where outside."""
        coarse_step = 8
        coarse_bits = numerics.SCALED_BITS + coarse_step - 1
        shifted = Signal(numerics.DISTANCE_BITS + numerics.PRE_SHIFT)
        coarse = Signal(coarse_bits)
        beyond = Signal(reset_less=True)
        m.d.comb += shifted.eq((distance << numerics.PRE_SHIFT) >> (shift[3:] << 3))
        whole = delay(m, shifted, 1, reset_less=True)
        outside = delay(m, outside, 1, reset_less=True)
        m.d.comb += coarse.eq(whole)
        m.d.sync += beyond.eq(whole[coarse_bits:].any() | outside)

        fine = Signal(coarse_bits, reset_less=True)
        scaled = Signal(numerics.SCALED_BITS, reset_less=True)
        m.d.sync += fine.eq(coarse >> delay(m, shift[:3], 1, reset_less=True))
        saturate = beyond | fine[numerics.SCALED_BITS :].any()
        m.d.sync += scaled.eq(Mux(saturate, -1, fine))

        # Two multipliers of 18 bits, each with its own registers: at its inputs, within, behind.
        low_bits = numerics.MULTIPLIER_BITS
        multiplier = delay(m, self.multiplier, 5, reset_less=True)
        low, high = (
            delay(m, delay(m, part, 1, reset_less=True) * multiplier, 2, reset_less=True)
            for part in (scaled[:low_bits], scaled[low_bits:])
        )
        product = delay(m, (high << low_bits) + low, 1, reset_less=True)
        return product[numerics.POST_SHIFT :]


class RowSum(wiring.Component):
    """Sum the exponentials of each row.

    Members
    -------
    i : In(ArrayLayout(EXPONENTIAL, lanes))
    taken : In(1)
        ``i`` is one more word of the row.
    final : In(1)
        ``i`` is its last.
    valid : Out(1)
        ``total`` is that of one more row.
    total : Out(sum_bits(max_row))
        SUM_FRACTION fraction bits.

    Latency
    -------
    ``RowSum.latency(lanes)`` cycles.
    """

    def __init__(self, config):
        self.lanes = config.lanes
        super().__init__(
            {
                "i": In(data.ArrayLayout(EXPONENTIAL, config.lanes)),
                "taken": In(1),
                "final": In(1),
                "valid": Out(1),
                "total": Out(sum_bits(config.max_row)),
            }
        )

    @staticmethod
    def latency(lanes):
        """Return the cycles from the last word to the total."""
        return exact_log2(lanes) + 4

    def elaborate(self, platform):
        m = Module()
        widen = numerics.SUM_FRACTION - numerics.MANTISSA_FRACTION
        terms = [
            self._term(m, self.i[lane].mantissa << widen, self.i[lane].halvings)
            for lane in range(self.lanes)
        ]
        while len(terms) > 1:
            terms = [
                delay(m, one + other, 1, reset_less=True)
                for one, other in zip(terms[::2], terms[1::2], strict=True)
            ]
        depth = self.latency(self.lanes) - 2
        taken, final = (delay(m, one, depth) for one in (self.taken, self.final))
        # The upper half of the sum is a cycle behind the lower one, whose carry it needs.
        half = len(self.total) // 2
        term = Signal.like(self.total)
        low, high = Signal(half), Signal(len(term) - half)
        low_sum, high_sum = Signal(half + 1), Signal.like(high)
        kept = delay(m, low_sum, 1, reset_less=True)
        taken_above, final_above = delay(m, taken, 1), delay(m, final, 1)
        above = Cat(kept[half], delay(m, term[half:], 1, reset_less=True))
        m.d.comb += [
            term.eq(terms[0]),
            low_sum.eq(low + term[:half]),
            high_sum.eq((Cat(C(1, 1), high) + above)[1:]),
            self.valid.eq(delay(m, taken & final, 2)),
            self.total.eq(delay(m, Cat(kept[:half], high_sum), 1, reset_less=True)),
        ]
        with m.If(taken):
            m.d.sync += low.eq(Mux(final, 0, low_sum))
        with m.If(taken_above):
            m.d.sync += high.eq(Mux(final_above, 0, high_sum))
        return m

    @staticmethod
    def _term(m, mantissa, halvings):
        """Return an exponential, two cycles later: shifted by whole bytes, then by bits."""
        coarse = delay(m, mantissa >> (halvings[3:] << 3), 1, reset_less=True)
        fine = delay(m, halvings[:3], 1, reset_less=True)
        return delay(m, coarse >> fine, 1, reset_less=True)


class ExponentialStage(wiring.Component):
    """Exponentials of a row's scores, and the reciprocal of their sum.

    Members
    -------
    row : In(stream)
        See `words_layout`.
    row_late : In(EXPONENTIAL_LATE)
        Of the row that was at ``row`` in the cycle before.
    i : In(stream)
        Words of ``lanes`` scores.
    room : In(1)
        All outputs have room.
    taken : Out(1)
        The lanes take a word in this cycle.
    row_end : Out(1)
        It is the last of its row.
    word_valid : Out(1)
        ``word`` is one more word of exponentials, in order.
    word : Out(ArrayLayout(EXPONENTIAL, lanes))
    reciprocal_valid : Out(1)
        ``reciprocal`` is that of one more row, in order.
    reciprocal : Out(RECIPROCAL)
    borrower : In(LanesPort)
        With ``config.attention``: the lanes for the attention engine.

    Latency
    -------
    ``word_latency`` cycles to a word, ``row_latency`` from a row's last word to its reciprocal.
    """

    def __init__(self, config):
        self.config = config
        words = data.ArrayLayout(EXPONENTIAL, config.lanes)
        super().__init__(
            {
                "row": In(stream.Signature(words_layout(config))),
                "row_late": In(EXPONENTIAL_LATE),
                "i": In(stream.Signature(data.ArrayLayout(SCORE, config.lanes))),
                "room": In(1),
                "taken": Out(1),
                "row_end": Out(1),
                "word_valid": Out(1),
                "word": Out(words),
                "reciprocal_valid": Out(1),
                "reciprocal": Out(RECIPROCAL),
                **({"borrower": In(LanesPort(config))} if config.attention else {}),
            }
        )

    @property
    def word_latency(self):
        """Cycles from a word of scores to its exponentials."""
        return ExponentialLane.latency

    @property
    def row_latency(self):
        """Cycles from a row's last word of scores to its reciprocal."""
        return self.word_latency + RowSum.latency(self.config.lanes) + Reciprocal.latency

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        row, late = self.row.payload, self.row_late
        m.submodules.words = words = RowWords(config=self.config)
        # Much looks at it, so it goes from lane to lane, a cycle each; the first use is later.
        owned = self.borrower.owned if self.config.attention else None
        m.d.comb += [
            words.row.eq(row.span),
            self.i.ready.eq(self.row.valid & self.room),
            self.taken.eq(self.i.valid & self.i.ready),
            self.row_end.eq(self.taken & words.final),
            self.row.ready.eq(self.row_end),
            words.step.eq(self.taken),
        ]
        for index in range(lanes):
            m.submodules[f"lane_{index}"] = lane = ExponentialLane(self.config)
            m.d.comb += [
                lane.score.eq(self.i.payload[index]),
                lane.inside.eq(words.valid[index] & ~row.empty),
                lane.maximum.eq(late.maximum),
                lane.multiplier.eq(late.row.multiplier),
                lane.shift.eq(late.row.shift),
                self.word[index].eq(lane.o),
            ]
            if self.config.attention:
                owned = delay(m, owned, 1)
                self._lend(m, lane, index, owned)
        m.submodules.sum = row_sum = RowSum(self.config)
        m.submodules.reciprocal = reciprocal = Reciprocal(self.config)
        m.d.comb += [
            self.word_valid.eq(delay(m, self.taken, self.word_latency)),
            row_sum.i.eq(self.word),
            row_sum.taken.eq(self.word_valid),
            row_sum.final.eq(delay(m, self.row_end, self.word_latency)),
            reciprocal.total.eq(row_sum.total),
            self.reciprocal.eq(reciprocal.o),
            self.reciprocal_valid.eq(delay(m, row_sum.valid, reciprocal.latency)),
        ]
        return m

    def _lend(self, m, lane, index, owned):
        """Let the borrower have a lane."""
        borrower = self.borrower
        m.d.comb += [
            borrower.exponent[index].eq(lane.exponent),
            borrower.mantissa[index].eq(lane.o.mantissa),
            lane.apart.eq(owned),
            lane.distance.eq(borrower.magnitude[index]),
            lane.position.eq(borrower.position[index]),
        ]
        with m.If(owned):
            m.d.comb += [
                lane.multiplier.eq(delay(m, borrower.multiplier, 1, reset_less=True)),
                lane.shift.eq(delay(m, borrower.shift, 1, reset_less=True)),
            ]
