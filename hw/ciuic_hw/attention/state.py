"""What is kept of each query from block to block: the running maximum and the running sum."""

from amaranth.hdl import *
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Member, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import ATTENTION_GUARD, ATTENTION_SUM_BITS, PROBABILITY_BITS

from ..streams import delay
from .values import SHIFT_BITS, SHIFTS, align

__all__ = ["OCTAVE", "RowStates", "state_ports"]

OCTAVE = signed(9)  # the power of two that the probabilities of a block are relative to


def state_ports(config: OverlayConfig) -> dict[str, Member]:
    """Return the ports at which the state of rows is read."""
    row = ceil_log2(config.accumulator_rows)
    return {
        "shifts_bank": In(1),
        "shifts_row": In(row),
        "shifts": Out(SHIFTS),
        "sum_half": In(1),
        "sum_row": In(row),
        "sum": Out(ATTENTION_SUM_BITS),
    }


class RowStates(Component):
    """Align blocks of keys with one another.

    A row comes again at the earliest ``latency`` cycles after its sum.

    Members
    -------
    begin, octave : In(1), In(OCTAVE)
        The octave of a row's block is known.
    half, row, block, first : In
        Parity of the job, row, parity of the block; first block of its job.
    add, total : In(1), In
        ``sum_after`` cycles later: the sum of its probabilities.
    shifts_bank, shifts_row, shifts : In(1), In, Out(SHIFTS)
        How a row of a block is aligned, two cycles later.
    sum_half, sum_row, sum : In(1), In, Out(ATTENTION_SUM_BITS)
        The running sum of a row, two cycles later.

    Parameters
    ----------
    config
        The overlay's configuration.
    sum_after
        Cycles from a row's octave to the sum of its probabilities.
    """

    latency = 6

    def __init__(self, config: OverlayConfig, *, sum_after: int):
        self.config = config
        self.sum_after = sum_after
        row = ceil_log2(config.accumulator_rows)
        super().__init__(
            {
                "begin": In(1),
                "octave": In(OCTAVE),
                "half": In(1),
                "row": In(row),
                "block": In(1),
                "first": In(1),
                "total": In(range(config.cols << PROBABILITY_BITS)),
                **state_ports(config),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rows = 2 * self.config.accumulator_rows
        m.submodules.octaves = octaves = Memory(shape=OCTAVE, depth=rows, init=[])
        m.submodules.aligned = aligned = Memory(shape=SHIFTS, depth=rows, init=[])
        m.submodules.sums = sums = Memory(shape=ATTENTION_SUM_BITS, depth=rows, init=[])

        # The octave of the row so far, and how far apart they are. All memories have a register
        # behind them, as block RAM is slow to answer.
        older, newer = octaves.read_port(), octaves.write_port()
        place = Cat(self.row, self.half)
        begins, first = delay(m, self.begin, 3), delay(m, self.first, 3, reset_less=True)
        before = delay(m, older.data, 1, reset_less=True)
        octave = delay(m, self.octave, 2, reset_less=True)
        apart = delay(m, octave - before, 1, reset_less=True)  # signed, 10 bits
        back = delay(m, before - octave, 1, reset_less=True)
        octave, before = (delay(m, one, 1, reset_less=True) for one in (octave, before))
        rises = ~first & back[-1]
        shifts = Signal(SHIFTS)
        m.d.comb += [
            older.addr.eq(place),
            newer.addr.eq(delay(m, place, 3, reset_less=True)),
            newer.data.eq(Mux(first | rises, octave, before)),
            newer.en.eq(begins),
            shifts.older.eq(Mux(rises, _capped(apart), 0)),
            shifts.newer.eq(Mux(first | rises, 0, _capped(back))),
        ]
        held_shifts = delay(m, Value.cast(shifts), 1, reset_less=True)
        write = aligned.write_port()
        m.d.comb += [
            write.addr.eq(delay(m, Cat(self.row, self.block), 4, reset_less=True)),
            Value.cast(write.data).eq(held_shifts),
            write.en.eq(delay(m, begins, 1)),
        ]
        look = aligned.read_port()
        m.d.comb += [
            look.addr.eq(Cat(self.shifts_row, self.shifts_bank)),
            Value.cast(self.shifts).eq(delay(m, Value.cast(look.data), 1, reset_less=True)),
        ]

        # The sum, aligned like the values.
        wait = self.sum_after - 1
        place = delay(m, place, self.sum_after, reset_less=True)
        shift = SHIFTS(delay(m, held_shifts, wait - 1, reset_less=True))
        overwrite = delay(m, first, wait + 2, reset_less=True)
        held, adder = sums.read_port(), sums.write_port()
        sum_before = delay(m, held.data, 1, reset_less=True)
        term = Cat(C(0, ATTENTION_GUARD), delay(m, self.total, 2, reset_less=True), C(0, 1))
        old = align(m, Cat(sum_before, C(0, 1)), shift.older, ATTENTION_SUM_BITS)
        new = align(m, term, shift.newer, len(term))
        m.d.comb += [
            held.addr.eq(place),
            adder.addr.eq(delay(m, place, 5, reset_less=True)),
            adder.en.eq(delay(m, begins, wait + 3)),
        ]
        m.d.comb += adder.data.eq(delay(m, Mux(overwrite, 0, old) + new, 1, reset_less=True))
        out = sums.read_port()
        m.d.comb += [
            out.addr.eq(Cat(self.sum_row, self.sum_half)),
            self.sum.eq(delay(m, out.data, 1, reset_less=True)),
        ]
        return m


def _capped(apart):
    """Return a distance of octaves, not below zero, as a shift that leaves nothing at its most."""
    limit = (1 << SHIFT_BITS) - 1
    return Mux(apart[SHIFT_BITS:].any(), limit, apart)
