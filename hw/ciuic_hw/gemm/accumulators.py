"""Accumulators: two banks of rows, one summed into while the other is drained."""

from amaranth.hdl import *
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from ..axi.ports import selected
from ..streams import delay
from .activations import SCRATCHPAD_LATENCY
from .array import array_latency, sum_bits
from .compute import target_layout
from .scales import SCALE_LATENCY, SWAP_DELAY, Scales, accumulator_bits

__all__ = ["FETCH_LATENCY", "Accumulators"]

FETCH_LATENCY = 3  # a register, the memory and its output register
LAG = 1  # cycles that the upper half of a sum is behind the lower one


class Accumulators(Component):
    """Scale the array's sums and add them into the row that was named when they were issued.

    Members
    -------
    issue, target : In(1), In(target_layout)
        From the sequencer, in the cycle in which a row is read from the scratchpad.
    swap, slot : In(1), In(1)
        A tile of weights becomes current in the array, and its scales in a slot.
    load_scales, beat : In(1), In(stream_bytes * 8)
        Scales of INT4 weights, in step with the array's beats.
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
        `FETCH_LATENCY` cycles after ``read_en``, until the next.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "issue": In(1),
                "target": In(target_layout(config)),
                "swap": In(1),
                "slot": In(1),
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

        # The targets travel beside the rows: through scratchpad, array and scales.
        latency = SCRATCHPAD_LATENCY + array_latency(config) + SCALE_LATENCY
        stages = [(self.issue, self.target)]
        for step in range(latency + 1 + LAG):
            valid = Signal(name=f"valid_{step}")
            target = Signal(target_layout(config), name=f"target_{step}", reset_less=True)
            m.d.sync += [valid.eq(stages[-1][0]), target.eq(stages[-1][1])]
            stages.append((valid, target))
        _, sums_target = stages[latency - SCALE_LATENCY]
        valid, target = stages[latency + 1]

        m.submodules.scales = scales = Scales(config)
        m.d.comb += [
            scales.load.eq(delay(m, self.load_scales, SWAP_DELAY)),
            scales.beat.eq(delay(m, self.beat, SWAP_DELAY, reset_less=True)),
            scales.swap.eq(delay(m, self.swap << self.slot, SWAP_DELAY)),
            scales.sums.eq(self.sums),
            scales.sums_slot.eq(stages[latency - SCALE_LATENCY - 1][1].slot),
            scales.w4.eq(sums_target.w4),
        ]

        # A row is read, registered, looked at, added to and written: four cycles in which it may
        # come again. Then the sum is taken from where it is on its way.
        _, read_target = stages[latency - 3]
        again = [Signal(name=f"again_{cycles}") for cycles in (1, 2, 3, 4)]
        before = [stages[latency - 3 + cycles] for cycles in (1, 2, 3, 4)]
        for same, (was_valid, was) in zip(again, before, strict=True):
            place = Cat(was.row, was.bank) == Cat(read_target.row, read_target.bank)
            m.d.sync += same.eq(was_valid & place & ~read_target.first)

        # Sums are too wide for one cycle: the upper half of each is what the lower one is, `LAG`
        # cycles later.
        low_bits, places = bits // 2, range(0, config.cols * bits, bits)
        carry, rows = C(0, config.cols), []
        for name, low, high, lag in (
            ("low", 0, low_bits, 0),
            ("high", low_bits, bits, LAG),
        ):
            terms = Cat(scales.terms[place + low : place + high] for place in places)
            row, carry = self._sum(
                m,
                name,
                delay(m, terms, lag, reset_less=True),
                carry,
                again=[delay(m, same, lag) for same in again],
                stages=stages[latency - 3 + lag :],
            )
            rows.append([row.word_select(col, high - low) for col in range(config.cols)])
        m.d.comb += self.read_data.eq(Cat(*zip(*rows, strict=True)))

        taken, complete = Signal(2), Signal(2)
        m.d.comb += [self.free.eq(~taken), complete.eq((valid & target.last) << target.bank)]
        m.d.sync += [
            taken.eq((taken | self.take) & ~self.drained),
            self.full.eq((self.full | complete) & ~self.drained),
        ]
        return m

    def _sum(self, m, name, terms, carry, *, again, stages):
        """Add terms into rows of a memory.

        Parameters
        ----------
        terms, carry
            For each column, what to add.
        again
            For a row that is read: whether it was read so many cycles before, from one on.
        stages
            The rows and whether they are valid, from reading on.

        Returns
        -------
        tuple
            The row that is drained, and the carries out of the sums.
        """
        config = self.config
        (read_valid, read_target), (_, looked_at), _, (add_valid, _), (valid, target), *_ = stages
        m.submodules[f"memory_{name}"] = memory = Memory(
            shape=len(terms),
            depth=2 * config.accumulator_rows,
            init=[],
            attrs={"ram_style": "distributed"} if config.lut_accumulators else {},
        )
        write, read, drain = memory.write_port(), memory.read_port(), memory.read_port()
        sums, older, other, held, present = (
            Signal(len(terms), name=f"{kind}_{name}", reset_less=True)
            for kind in ("sums", "older", "other", "held", "present")
        )
        carries = Signal(config.cols, name=f"carries_{name}", reset_less=True)
        from_sums, from_other, from_held = Signal(), Signal(), Signal()
        # A quarter of the columns each; synthesis does not make them one, as their resets differ.
        soon_again = Signal()
        last_again = [
            Signal(name=f"last_{name}_{n}", init=n % 2, reset_less=n > 1)
            for n in range(min(4, config.cols))
        ]
        m.d.sync += [
            from_sums.eq(again[1]),
            from_other.eq(~again[1] & (again[2] | again[3])),
            from_held.eq(~(again[1] | again[2] | again[3] | looked_at.first)),
            soon_again.eq(again[0]),
            *(quarter.eq(soon_again) for quarter in last_again),
            held.eq(read.data),
            older.eq(sums),
            other.eq(Mux(again[2], sums, older)),
            present.eq(selected((from_sums, from_other, from_held), (sums, other, held))),
        ]
        m.d.comb += [
            read.en.eq(read_valid),
            read.addr.eq(Cat(read_target.row, read_target.bank)),
            write.en.eq(valid),
            write.addr.eq(Cat(target.row, target.bank)),
            write.data.eq(sums),
            drain.en.eq(delay(m, self.read_en, 1)),
            drain.addr.eq(delay(m, Cat(self.read_row, self.read_bank), 1, reset_less=True)),
        ]
        bits = len(terms) // config.cols
        with m.If(add_valid):
            for col in range(config.cols):
                total, before, term = (one.word_select(col, bits) for one in (sums, present, terms))
                quarter = last_again[len(last_again) * col // config.cols]
                # A carry is added as one below the lowest bit.
                added = Cat(C(1, 1), Mux(quarter, total, before)) + Cat(carry[col], term)
                m.d.sync += Cat(total, carries[col]).eq(added[1:])
        return delay(m, drain.data, 1, reset_less=True), carries
