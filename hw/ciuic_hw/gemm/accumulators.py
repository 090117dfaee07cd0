"""Accumulators: two banks of INT32 rows, one summed into while the other is drained."""

from amaranth.hdl import *
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from .array import array_latency, sum_bits
from .compute import target_layout

__all__ = ["Accumulators"]


class Accumulators(Component):
    """Add the array's sums into the row that was named when their activations were issued.

    Members
    -------
    issue, target : In(1), In(target_layout)
        From the sequencer, in the cycle in which a row is read from the scratchpad.
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
    read_data : Out(cols * 32)
        One cycle after ``read_en``.

    Latency
    -------
    A row is complete `array_latency` + 2 cycles after ``issue``.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.width = sum_bits(config)
        self.delay = 1 + array_latency(config)  # scratchpad read, then the array
        super().__init__(
            {
                "issue": In(1),
                "target": In(target_layout(config)),
                "sums": In(config.cols * self.width),
                "take": In(2),
                "free": Out(2),
                "full": Out(2),
                "drained": In(2),
                "read_en": In(1),
                "read_bank": In(1),
                "read_row": In(ceil_log2(config.accumulator_rows)),
                "read_data": Out(config.cols * 32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config

        # The targets travel beside the sums.
        valid, target = self.issue, self.target
        for step in range(self.delay):
            if step == self.delay - 1:
                read_valid, read_target = valid, target  # a cycle ahead of the sums
            next_valid = Signal(name=f"valid_{step}")
            next_target = Signal(target_layout(config), name=f"target_{step}")
            m.d.sync += [next_valid.eq(valid), next_target.eq(target)]
            valid, target = next_valid, next_target

        results = []
        for bank in (0, 1):
            m.submodules[f"bank_{bank}"] = memory = Memory(
                shape=config.cols * 32, depth=config.accumulator_rows, init=[]
            )
            write = memory.write_port()
            # A row may be added to in the cycle after it was written.
            read = memory.read_port(transparent_for=(write,))
            mine = self.read_en & (self.read_bank == bank)
            adding = read_valid & (read_target.bank == bank)
            m.d.comb += [
                read.en.eq(mine | adding),
                read.addr.eq(Mux(adding, read_target.row, self.read_row)),
                write.en.eq(valid & (target.bank == bank)),
                write.addr.eq(target.row),
            ]
            for col in range(config.cols):
                held = Mux(target.first, 0, read.data.word_select(col, 32))
                term = self.sums.word_select(col, self.width).as_signed()
                m.d.comb += write.data.word_select(col, 32).eq(held + term)
            results.append(read.data)

        shown = Signal()
        with m.If(self.read_en):
            m.d.sync += shown.eq(self.read_bank)
        m.d.comb += self.read_data.eq(Mux(shown, results[1], results[0]))

        taken = Signal(2)
        complete = Signal(2)
        m.d.comb += [
            self.free.eq(~taken),
            complete.eq((valid & target.last) << target.bank),
        ]
        m.d.sync += [
            taken.eq((taken | self.take) & ~self.drained),
            self.full.eq((self.full | complete) & ~self.drained),
        ]
        return m
