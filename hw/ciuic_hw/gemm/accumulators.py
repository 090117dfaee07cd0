"""Accumulators: two banks of rows, one summed into while the other is drained."""

from amaranth.hdl import *
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from .array import array_latency, sum_bits
from .compute import target_layout
from .scales import Scales, accumulator_bits

__all__ = ["Accumulators"]


class Accumulators(Component):
    """Scale the array's sums and add them into the row that was named when they were issued.

    Members
    -------
    issue, target : In(1), In(target_layout)
        From the sequencer, in the cycle in which a row is read from the scratchpad.
    swap : In(1)
        A tile of weights, and its scales, become current with this row.
    load_scales, beat : In(1), In(stream_bytes * 8)
        Scales of INT4 weights.
    sums : In(cols * sum_bits)
        From the array.
    take : In(2)
        Strobes: the sequencer is done with a bank.
    free : Out(2)
        Banks that the sequencer may write.
    full : Out(2)
        Banks that are complete.
    drained : In(2)
        Strobes: a full bank was read and is free again.
    read_en, read_bank, read_row : In
        Read a row of a full bank.
    read_data : Out(cols * accumulator_bits)
        One cycle after ``read_en``.

    Latency
    -------
    A row is complete `array_latency` + 3 cycles after ``issue``.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "issue": In(1),
                "target": In(target_layout(config)),
                "swap": In(1),
                "load_scales": In(1),
                "beat": In(config.stream_bytes * 8),
                "sums": In(config.cols * sum_bits(config)),
                "take": In(2),
                "free": Out(2),
                "full": Out(2),
                "drained": In(2),
                "read_en": In(1),
                "read_bank": In(1),
                "read_row": In(ceil_log2(config.accumulator_rows)),
                "read_data": Out(config.cols * accumulator_bits(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bits = accumulator_bits(config)

        # The targets travel beside the rows: through scratchpad and array, then the scales.
        stages = [(self.issue, self.target)]
        for step in range(1 + array_latency(config) + 1):
            valid = Signal(name=f"valid_{step}")
            target = Signal(target_layout(config), name=f"target_{step}")
            m.d.sync += [valid.eq(stages[-1][0]), target.eq(stages[-1][1])]
            stages.append((valid, target))
        (sums_valid, sums_target), (valid, target) = stages[-2:]

        m.submodules.scales = scales = Scales(config)
        m.d.comb += [
            scales.load.eq(self.load_scales),
            scales.beat.eq(self.beat),
            scales.swap.eq(self.swap),
            scales.slot.eq(self.target.slot),
            scales.valid.eq(sums_valid),
            scales.sums.eq(self.sums),
            scales.sums_slot.eq(sums_target.slot),
            scales.w4.eq(sums_target.w4),
        ]

        results = []
        for bank in (0, 1):
            m.submodules[f"bank_{bank}"] = memory = Memory(
                shape=config.cols * bits, depth=config.accumulator_rows, init=[]
            )
            write = memory.write_port()
            # A row may be added to in the cycle after it was written.
            read = memory.read_port(transparent_for=(write,))
            adding = sums_valid & (sums_target.bank == bank)  # a cycle ahead of the terms
            m.d.comb += [
                read.en.eq(self.read_en & (self.read_bank == bank) | adding),
                read.addr.eq(Mux(adding, sums_target.row, self.read_row)),
                write.en.eq(valid & (target.bank == bank)),
                write.addr.eq(target.row),
            ]
            for col in range(config.cols):
                held = Mux(target.first, 0, read.data.word_select(col, bits))
                term = scales.terms.word_select(col, bits)
                m.d.comb += write.data.word_select(col, bits).eq(held + term)
            results.append(read.data)

        shown = Signal()
        with m.If(self.read_en):
            m.d.sync += shown.eq(self.read_bank)
        m.d.comb += self.read_data.eq(Mux(shown, results[1], results[0]))

        taken, complete = Signal(2), Signal(2)
        m.d.comb += [self.free.eq(~taken), complete.eq((valid & target.last) << target.bank)]
        m.d.sync += [
            taken.eq((taken | self.take) & ~self.drained),
            self.full.eq((self.full | complete) & ~self.drained),
        ]
        return m
