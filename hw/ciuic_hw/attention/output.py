"""Results: sums of values over the sums of their probabilities, and jobs reported in order."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig, Status, numerics
from ciuic.abi.numerics import (
    ACCUMULATOR_BITS,
    ATTENTION_SUM_BITS,
    INT16_MAX,
    INT16_MIN,
    RECIPROCAL_FRACTION,
)

from ..arithmetic import add, countdown, highest, total
from ..axi.ports import WritePort
from ..jobs import outcome
from ..softmax.table import Interpolator
from ..streams import PipelineFifo, SkidBuffer, delay
from .job import attention_layout
from .values import align

__all__ = ["AttentionOutput", "Quotient"]

RESULT_BITS = 16
LEADING = ATTENTION_SUM_BITS - 1
LEAST_SUM = 14  # power of two that every sum reaches, if a query sees any key
OPERAND_BITS = 25  # signed, of a multiplier
QUOTIENT_SHIFT = 24
WAITING = 64  # beats of results


class Quotient(Component):
    """Sums of values over the sum of their probabilities, a beat of results a cycle.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    values : In(count * ACCUMULATOR_BITS)
    total : In(ATTENTION_SUM_BITS)
    o : Out(count * 16)
        ``Quotient.latency`` cycles later.
    """

    latency = 12 + Interpolator.latency

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.count = config.bus_bytes * 8 // RESULT_BITS
        super().__init__(
            {
                "values": In(self.count * ACCUMULATOR_BITS),
                "total": In(ATTENTION_SUM_BITS),
                "o": Out(self.count * RESULT_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()

        def pipe(value, cycles=1):
            return delay(m, value, cycles, reset_less=True)

        # The power of two below the sum: its byte and its place there.
        total = pipe(self.total)
        power, places = Signal(range(ATTENTION_SUM_BITS)), []
        for index in range(ATTENTION_SUM_BITS // 8):
            some, place = highest(total.word_select(index, 8))
            places.append((pipe(some), pipe(place)))
        for index, (some, place) in enumerate(places):
            with m.If(some):
                m.d.comb += power.eq(Cat(place, C(index, 2)))
        power = pipe(power)
        up = ~power  # LEADING - power
        whole = pipe((pipe(total, 2) << (up[3:] << 3))[:ATTENTION_SUM_BITS])
        whole = pipe((whole << pipe(up[:3]))[:LEADING])  # without the leading one
        table = Interpolator(
            self.config, numerics.reciprocal_table(), value_bits=RECIPROCAL_FRACTION
        )
        m.submodules.reciprocal = table
        fraction_bits = numerics.TABLE_BITS + numerics.STEP_BITS
        m.d.comb += table.position.eq(whole[-fraction_bits:])
        inverse = pipe(table.value)

        down = pipe((power - LEAST_SUM)[: power.shape().width])
        results = []
        for index in range(self.count):
            value = self.values.word_select(index, ACCUMULATOR_BITS)
            doubled = Cat(C(0, 1), pipe(value, 4))
            small = align(m, doubled, down, OPERAND_BITS + 8)[:OPERAND_BITS].as_signed()
            small = pipe(small, Interpolator.latency)
            # Two multipliers of 18 bits, each with its own registers.
            low, high = small[:RECIPROCAL_FRACTION], small[RECIPROCAL_FRACTION:].as_signed()
            low, high = pipe(low * inverse, 2), pipe(high * inverse, 2)
            product = add(m, low, high << RECIPROCAL_FRACTION)
            rounded = pipe(product + (1 << (QUOTIENT_SHIFT - 1)))[QUOTIENT_SHIFT:].as_signed()
            upper = rounded[RESULT_BITS - 1 :]
            limit = Mux(rounded[-1], INT16_MIN, INT16_MAX)
            results.append(pipe(Mux(upper.any() & ~upper.all(), limit, rounded)[:RESULT_BITS]))
        m.d.comb += self.o.eq(Cat(results))
        return m


class AttentionOutput(Component):
    """Write the results of a half when it is complete, and report its job.

    Members
    -------
    job : In(stream)
        Jobs, refused ones too.
    complete : In(2)
        Strobes: a half of the value accumulators is complete.
    half_take, half_free : In(2), Out(2)
        Strobes: a job begins to use a half; halves that none uses.
    fetch_next, half, place, fetched
        To and from `ValueAccumulators`.
    row, sum : Out, In(ATTENTION_SUM_BITS)
        The sum of probabilities of a row of the half, two cycles later.
    write : Out(WritePort)
        Memory.
    read_error : In(1)
        Strobe: a read of this job, or of the one that is loaded ahead, was refused.
    busy : In(2 * 32)
        Rows issued for the jobs of even and of odd number.
    done : Out(stream)
        See `EngineSignature`.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "complete": In(2),
                "half_take": In(2),
                "half_free": Out(2, init=3),
                "fetch_next": In(1),
                "half": Out(1),
                "place": Out(range(config.attention_rows)),
                "fetched": In(config.cols * ACCUMULATOR_BITS),
                "row": Out(ceil_log2(config.accumulator_rows)),
                "sum": In(ATTENTION_SUM_BITS),
                "write": Out(WritePort(config)),
                "read_error": In(1),
                "busy": In(data.ArrayLayout(32, 2)),
                "done": Out(stream.Signature(data.StructLayout({"status": 8, "busy": 32}))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        self._job = Signal(attention_layout(self.config), reset_less=True)
        self._start = Signal()  # strobe: all of the half may be read; it comes from a register
        asked = self._requests(m)
        self._fetch(m)
        self._words(m)
        self._jobs(m, asked)
        return m

    def _requests(self, m):
        """Announce every row; return whether all are."""
        job, asked = self._job, Signal()
        m.submodules.requests = requests = SkidBuffer(self.write.request.p.shape())
        connect(m, requests.o, flipped(self.write.request))
        request = requests.i
        more = countdown(m, job.m, start=self._start, step=asked)
        # The address follows a cycle behind, and takes two.
        stepped = delay(m, asked, 1)
        settling = delay(m, stepped, 1)
        addr = total(m, job.o_addr, job.o_stride, start=self._start, step=stepped)
        m.d.comb += [
            request.valid.eq(more & ~stepped & ~settling),
            request.p.addr.eq(addr),
            request.p.nbytes.eq(job.d_v << exact_log2(RESULT_BITS // 8)),
            asked.eq(request.valid & request.ready),
        ]
        return ~more & ~requests.o.valid

    def _fetch(self, m):
        """Fetch rows of sums, all blocks of columns of a row of the result after each other."""
        job = self._job
        self._held = held = Signal(self.config.cols * ACCUMULATOR_BITS, reset_less=True)
        self._held_sum = held_sum = Signal(ATTENTION_SUM_BITS, reset_less=True)
        self._held_last = held_last = Signal()  # the last block of columns of its row
        self._valid = valid = Signal()
        self._take = take = Signal()  # strobe: what is held is taken
        self._fetched_all = fetched_all = Signal()  # strobe: the half is no longer needed
        active, settled, under_way = Signal(), Signal(), Signal(2)
        row = Signal.like(job.m)
        block = Signal.like(job.value_blocks)
        final_row, final_block = (Signal.like(one, reset_less=True) for one in (row, block))
        place = Signal.like(self.place)
        last_block, last_row, fetched = Signal(), Signal(), Signal()
        may = delay(m, self.fetch_next, 1)
        m.d.comb += [
            fetched.eq(may & active & settled & ~under_way.any() & ~valid),
            self.place.eq(place),
            self.row.eq(row),
        ]
        m.d.sync += [
            under_way.eq(Cat(fetched, under_way[0])),
            # Known in the second cycle of a job, and when the next fetch may be.
            settled.eq(active),
            last_block.eq(block == final_block),
            last_row.eq(row == final_row),
            # Known long before the half is complete.
            final_block.eq(job.value_blocks - 1),
            final_row.eq(job.m - 1),
            valid.eq(under_way[1] | (valid & ~take)),
        ]
        with m.If(under_way[1]):
            m.d.sync += [held.eq(self.fetched), held_sum.eq(self.sum)]
        with m.If(under_way[0]):  # `fetched` is late
            m.d.sync += [
                held_last.eq(last_block),
                block.eq(block + 1),
                place.eq(place + job.m),
            ]
            with m.If(last_block):
                m.d.sync += [block.eq(0), row.eq(row + 1), place.eq(row + 1)]
                with m.If(last_row):
                    m.d.comb += fetched_all.eq(1)
                    m.d.sync += [active.eq(0), row.eq(0), place.eq(0)]
        with m.If(self._start):
            m.d.sync += active.eq(1)

    def _words(self, m):
        """Send what was fetched through the division, a beat a cycle."""
        config, job = self.config, self._job
        m.submodules.quotient = quotient = Quotient(config)
        count = quotient.count
        places, width = config.cols // count, count * ACCUMULATOR_BITS
        m.submodules.results = results = PipelineFifo(
            config.bus_bytes * 8, depth=WAITING, latency=Quotient.latency
        )
        connect(m, results.o, flipped(self.write.data))
        words = Signal(config.cols * ACCUMULATOR_BITS, reset_less=True)
        total = Signal(ATTENTION_SUM_BITS, reset_less=True)
        left = Signal(range(places + 1), reset_less=True)
        rest = Signal(range(places + 1), reset_less=True)  # words of the last block of columns
        # Words are left; it is the last one, or there is none.
        some, ends = Signal(), Signal(init=1)
        room = results.room
        number = Mux(self._held_last, rest, places)
        columns = job.d_v[: exact_log2(config.cols)]
        m.d.sync += rest.eq(Mux(columns == 0, places, (columns + (count - 1)) >> exact_log2(count)))
        m.d.comb += [
            self._take.eq(self._valid & ends & room),
            quotient.values.eq(words[:width]),
            quotient.total.eq(total),
            results.payload.eq(quotient.o),
            results.valid.eq(delay(m, some & room, Quotient.latency)),
        ]
        # What is held need not be valid to move up: then nothing is left.
        with m.If(room):
            m.d.sync += [
                words.eq(Mux(ends, self._held, Cat(words[width:], words[-width:]))),
                left.eq(Mux(ends, number, left - 1)),
                some.eq(~ends | self._valid),
                ends.eq(Mux(ends, ~self._valid | (number == 1), left == 2)),
            ]
            with m.If(ends):
                m.d.sync += total.eq(self._held_sum)

    def _jobs(self, m, asked):
        """Take jobs, and report each when its last write was acknowledged."""
        job = self._job
        parity = Signal(init=1)
        completed = Signal(2)
        busy = Signal(32, reset_less=True)
        ends = Signal()
        m.d.sync += [
            completed.eq((completed | self.complete) & ~(self._start << parity)),
            self.half_free.eq((self.half_free | (self._fetched_all << parity)) & ~self.half_take),
        ]
        status = outcome(
            m,
            job.refused,
            read_error=self.read_error,
            write_error=self.write.error,
            ends=ends,
        )
        m.d.comb += [
            self.half.eq(parity),
            self.done.p.status.eq(status),
            self.done.p.busy.eq(busy),
        ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [job.eq(self.job.p), busy.eq(0)]
                with m.If(self.job.valid):
                    m.next = "END"
                    with m.If(self.job.p.refused == Status.PENDING):
                        m.d.sync += parity.eq(~parity)
                        m.next = "COMPUTE"
            with m.State("COMPUTE"):
                m.d.sync += busy.eq(self.busy[parity])
                with m.If(completed.bit_select(parity, 1)):
                    m.d.sync += self._start.eq(1)
                    m.next = "START"
            with m.State("START"):
                m.d.sync += self._start.eq(0)
                m.next = "WRITE"
            with m.State("WRITE"):
                with m.If(asked & ~self.write.busy):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += ends.eq(1)
                m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.next = "IDLE"
