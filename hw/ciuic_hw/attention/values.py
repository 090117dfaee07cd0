"""Sums of values: each block of keys is aligned to what was summed before it, or the other way."""

from amaranth.hdl import *
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import ACCUMULATOR_BITS, ATTENTION_GUARD

from ..gemm.activations import SCRATCHPAD_LATENCY
from ..gemm.array import array_latency, sum_bits
from ..streams import delay
from .sequencer import value_target_layout

__all__ = ["SHIFTS", "ValueAccumulators", "align"]

SHIFT_BITS = 6
# What a block of keys does to a row: how far the sums so far, and those of the block, are shifted.
SHIFTS = data.StructLayout({"older": SHIFT_BITS, "newer": SHIFT_BITS})


def align(m, value, shift, bits):
    """Return a signed value shifted right, two cycles later: by whole bytes, then by bits."""
    coarse = delay(m, (value.as_signed() >> (shift[3:] << 3))[:bits], 1, reset_less=True)
    fine = delay(m, shift[:3], 1, reset_less=True)
    return delay(m, (coarse.as_signed() >> fine)[:bits], 1, reset_less=True)


class ValueAccumulators(Component):
    """Two halves of rows of sums, for neighbouring jobs.

    A row comes again at the earliest after a tile of weights, which takes more beats than a row
    takes to pass.

    Members
    -------
    issue, target : In(1), In(value_target_layout)
        From the sequencer.
    sums : In(cols * sum_bits)
        From the array.
    shifts_bank, shifts_row, shifts : Out(1), Out, In(SHIFTS)
        Look up a row of a block of keys; two cycles later it is there.
    complete : Out(2)
        Strobes: the half is complete.
    fetch_next : Out(1)
        In the next cycle a row of sums may be read.
    half, place : In(1), In
        Which one.
    fetched : Out(cols * ACCUMULATOR_BITS)
        Two cycles later, for that cycle.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "issue": In(1),
                "target": In(value_target_layout(config)),
                "sums": In(config.cols * sum_bits(config)),
                "shifts_bank": Out(1),
                "shifts_row": Out(range(config.accumulator_rows)),
                "shifts": In(SHIFTS),
                "complete": Out(2),
                "fetch_next": Out(1),
                "half": In(1),
                "place": In(range(config.attention_rows)),
                "fetched": Out(config.cols * ACCUMULATOR_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bits, width = ACCUMULATOR_BITS, sum_bits(config)
        m.submodules.memory = memory = Memory(
            shape=config.cols * bits, depth=2 * config.attention_rows, init=[]
        )
        read, write = memory.read_port(), memory.write_port()

        arrival = SCRATCHPAD_LATENCY + array_latency(config)  # from issue to sums
        stages = [(self.issue, self.target)]
        for step in range(arrival + 4):
            valid = Signal(name=f"valid_{step}")
            target = Signal(value_target_layout(config), name=f"target_{step}", reset_less=True)
            m.d.sync += [valid.eq(stages[-1][0]), target.eq(stages[-1][1])]
            stages.append((valid, target))
        _, read_target = stages[arrival - 2]
        writes, write_target = stages[arrival + 4]

        # A job's first block does not look at what is there, so that the port is free for results.
        busy = Signal()
        soon, soon_target = stages[arrival - 3]
        m.d.sync += busy.eq(~self.fetch_next)
        m.d.comb += [
            self.fetch_next.eq(~soon | soon_target.first),
            read.en.eq(1),
            read.addr.eq(
                Mux(
                    busy,
                    Cat(read_target.place, read_target.half),
                    Cat(self.place, self.half),
                )
            ),
            self.shifts_bank.eq(soon_target.block),
            self.shifts_row.eq(soon_target.row),
            self.fetched.eq(delay(m, read.data, 1, reset_less=True)),
        ]
        # All columns look at these.
        shifts = [SHIFTS(one) for one in _twice(m, Value.cast(self.shifts))]
        firsts = _twice(m, stages[arrival + 1][1].first)
        totals = []
        for col in range(config.cols):
            shift, first = shifts[col % 2], firsts[col % 2]
            older = align(m, self.fetched.word_select(col, bits), shift.older, bits)
            term = Cat(C(0, ATTENTION_GUARD), self.sums.word_select(col, width))
            newer = align(m, term, shift.newer, len(term))
            older = Mux(first, 0, older.as_signed())
            total = Signal(bits, name=f"total_{col}", reset_less=True)
            m.d.sync += total.eq(
                delay(m, older, 1, reset_less=True).as_signed()
                + delay(m, newer, 1, reset_less=True).as_signed()
            )
            totals.append(total)
        m.d.comb += [
            write.en.eq(writes),
            write.addr.eq(Cat(write_target.place, write_target.half)),
            write.data.eq(Cat(totals)),
        ]
        m.d.sync += self.complete.eq((writes & write_target.last) << write_target.half)
        return m


def _twice(m, value):
    """Return two registers of a value that much looks at, each for a half.

    One holds the inverse, so that synthesis does not take the two for one.
    """
    return delay(m, value, 1, reset_less=True), ~delay(m, ~value, 1, reset_less=True)
