"""Third stage: probabilities, rounded so that a row keeps its sum."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import numerics

from ..streams import delay
from .layouts import EXPONENTIAL, NORMALIZE_LATE, RECIPROCAL, span_layout
from .rows import RowWords

__all__ = ["NormalizeStage", "ProbabilityLane", "Rounding"]

PROBABILITY_BITS = numerics.PROBABILITY_FRACTION + 1
WIDE, NARROW = numerics.RESULT_FRACTION_16, numerics.RESULT_FRACTION_8
# Bits of a probability below a unit of the narrow result; those of a wide one are aligned to it.
PART_BITS = numerics.PROBABILITY_FRACTION - NARROW


class ProbabilityLane(wiring.Component):
    """One probability a cycle.

    Members
    -------
    exponential : In(EXPONENTIAL)
    reciprocal : In(RECIPROCAL)
        A cycle behind ``exponential``.
    o : Out(PROBABILITY_BITS)
        PROBABILITY_FRACTION fraction bits.

    Latency
    -------
    ``ProbabilityLane.latency`` cycles.
    """

    latency = 6

    def __init__(self):
        super().__init__(
            {
                "exponential": In(EXPONENTIAL),
                "reciprocal": In(RECIPROCAL),
                "o": Out(PROBABILITY_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        surplus = (
            numerics.MANTISSA_FRACTION
            + numerics.RECIPROCAL_FRACTION
            - numerics.PROBABILITY_FRACTION
        )
        exponential = delay(m, self.exponential, 1, reset_less=True)
        # A multiplier with its own registers: at its inputs, within, behind.
        mantissa = delay(m, exponential.mantissa, 1, reset_less=True)
        inverse = delay(m, self.reciprocal.inverse, 1, reset_less=True)
        product = delay(m, mantissa * inverse, 2, reset_less=True)
        shift = delay(m, exponential.halvings + self.reciprocal.norm, 3, reset_less=True)
        coarse = delay(m, product[surplus:] >> (shift[3:] << 3), 1, reset_less=True)
        fine = delay(m, shift[:3], 1, reset_less=True)
        m.d.comb += self.o.eq(delay(m, (coarse >> fine)[: len(self.o)], 1, reset_less=True))
        return m


class Rounding(wiring.Component):
    """Round the probabilities of a row and carry the remainder from each to the next.

    Members
    -------
    narrow : In(1)
        Results have 8 bits instead of 16.
    i : In(ArrayLayout(PROBABILITY_BITS, lanes))
    taken : In(1)
        ``i`` is one more word of the row.
    final : In(1)
        ``i`` is its last.
    o : Out(ArrayLayout(16, lanes))

    Latency
    -------
    ``Rounding.latency(lanes)`` cycles.
    """

    def __init__(self, config):
        self.lanes = config.lanes
        super().__init__(
            {
                "narrow": In(1),
                "i": In(data.ArrayLayout(PROBABILITY_BITS, config.lanes)),
                "taken": In(1),
                "final": In(1),
                "o": Out(data.ArrayLayout(WIDE, config.lanes)),
            }
        )

    @staticmethod
    def latency(lanes):
        """Return the cycles from a word to its results."""
        return exact_log2(lanes) + 4

    def elaborate(self, platform):
        m = Module()
        split = [self._split(m, self.i[lane]) for lane in range(self.lanes)]
        whole = [one for one, _ in split]
        # Prefix sums of the parts below a unit. The highest bit is the parity of the units: the sum
        # grows by less than a unit from lane to lane, so where it changes, a unit was carried.
        sums = [part for _, part in split]
        distance = 1
        while distance < self.lanes:
            sums = [
                delay(m, one, 1, reset_less=True)
                for one in (
                    *sums[:distance],
                    *(self._add(*pair) for pair in zip(sums, sums[distance:], strict=False)),
                )
            ]
            distance *= 2

        depth = self.latency(self.lanes) - 2
        taken = delay(m, self.taken, depth)
        final = delay(m, self.final, depth)
        narrow = delay(m, self.narrow, depth + 1, reset_less=True)
        half = 1 << (PART_BITS - 1)
        remainder = Signal(PART_BITS, init=half)
        reached = [self._add(remainder, one) for one in sums]
        with m.If(taken):
            m.d.sync += remainder.eq(Mux(final, half, reached[-1]))
        units = [C(0, 1), *(one[-1] for one in reached)]
        for lane in range(self.lanes):
            result = Signal(WIDE + 1)
            carried = delay(m, units[lane] ^ units[lane + 1], 1, reset_less=True)
            before = delay(m, whole[lane], depth - 2, reset_less=True)
            m.d.comb += result.eq(before + carried)
            beyond = result[WIDE] | (narrow & result[NARROW])
            rounded = Mux(beyond, (1 << WIDE) - 1, result[:WIDE])
            m.d.comb += self.o[lane].eq(delay(m, rounded, 1, reset_less=True))
        return m

    @staticmethod
    def _add(one, other):
        return (one + other)[: PART_BITS + 1]

    def _split(self, m, probability):
        """Return a probability's whole units, three cycles on, and, two on, its part below one."""
        up, down = (delay(m, one & self.narrow, 1, reset_less=True) for one in _close(probability))
        narrow = delay(m, self.narrow, 1, reset_less=True)
        probability = delay(m, probability, 1, reset_less=True)
        wide_part = numerics.PROBABILITY_FRACTION - WIDE
        whole = Mux(narrow, probability[PART_BITS:], probability[wide_part:])
        part = Mux(
            narrow, probability[:PART_BITS], probability[:wide_part] << (PART_BITS - wide_part)
        )
        whole = delay(m, whole[: WIDE + 1], 1, reset_less=True)
        more = delay(m, up, 1, reset_less=True)
        part = delay(m, Mux(up | down, 0, Cat(part[:PART_BITS], C(0, 1))), 1, reset_less=True)
        return delay(m, (whole + more)[: len(whole)], 1, reset_less=True), part


def _close(probability):
    """Return whether a probability is close below a unit of 8 bits, and whether close above one."""
    units = probability[PART_BITS:]
    large = units[exact_log2(numerics.SNAP_8_LARGE) :].any()
    medium = units[exact_log2(numerics.SNAP_8_MEDIUM) :].any()
    step = exact_log2(numerics.SNAP_8_STEP)
    coarse = exact_log2(numerics.SNAP_8)
    fine, finest = coarse - step, coarse - 2 * step
    bits = (probability[coarse:PART_BITS], probability[fine:coarse], probability[finest:fine])
    below = bits[0].all() & (large | bits[1].all()) & (medium | bits[2].all())
    above = ~bits[0].any() & (large | ~bits[1].any()) & (medium | ~bits[2].any())
    return below, above & units.any()


class NormalizeStage(wiring.Component):
    """Results of a row's exponentials.

    Members
    -------
    row : In(stream)
        See `span_layout`.
    row_late : In(NORMALIZE_LATE)
        Of the row that was at ``row`` in the cycle before.
    i : In(stream)
        Words of ``lanes`` exponentials, the valid ones of each row.
    room : In(1)
        The output has room.
    row_begin : Out(1)
        Strobe: the first word of a row was taken.
    valid : Out(1)
        ``word`` is one more word of results, zeros beyond the valid elements.
    word : Out(ArrayLayout(16, lanes))
    narrow : Out(1)
        ``word`` holds results of 8 bits.

    Latency
    -------
    ``latency`` cycles.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "row": In(stream.Signature(span_layout(config))),
                "row_late": In(NORMALIZE_LATE),
                "i": In(stream.Signature(data.ArrayLayout(EXPONENTIAL, config.lanes))),
                "room": In(1),
                "row_begin": Out(1),
                "valid": Out(1),
                "word": Out(data.ArrayLayout(WIDE, config.lanes)),
                "narrow": Out(1),
            }
        )

    @property
    def latency(self):
        """Cycles from a word of exponentials to its results."""
        return ProbabilityLane.latency + Rounding.latency(self.config.lanes)

    def elaborate(self, platform):
        m = Module()
        lanes = self.config.lanes
        m.submodules.words = words = RowWords(config=self.config, padded=True)
        masked = words.beyond
        may, taken = Signal(), Signal()
        m.d.comb += [
            words.row.eq(self.row.payload),
            may.eq(self.room & self.row.valid),
            taken.eq(may & (self.i.valid | masked)),
            self.i.ready.eq(may & ~masked),
            self.row.ready.eq(taken & words.final),
            words.step.eq(taken),
            self.row_begin.eq(taken & words.first),
        ]

        m.submodules.rounding = rounding = Rounding(self.config)
        for index in range(lanes):
            m.submodules[f"lane_{index}"] = lane = ProbabilityLane()
            m.d.comb += [
                lane.exponential.eq(self.i.payload[index]),
                lane.reciprocal.eq(self.row_late.reciprocal),
                rounding.i[index].eq(lane.o),
            ]
            with m.If(masked):
                m.d.comb += lane.exponential.mantissa.eq(0)
        m.d.comb += [
            rounding.narrow.eq(delay(m, self.row_late.result.narrow, ProbabilityLane.latency - 1)),
            rounding.taken.eq(delay(m, taken, ProbabilityLane.latency)),
            rounding.final.eq(delay(m, words.final, ProbabilityLane.latency)),
            self.word.eq(rounding.o),
            self.narrow.eq(delay(m, rounding.narrow, rounding.latency(lanes))),
            self.valid.eq(delay(m, rounding.taken, rounding.latency(lanes))),
        ]
        return m
