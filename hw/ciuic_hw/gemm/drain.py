"""Results: complete accumulator banks go to memory, and a job is reported when all are there."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from ciuic.abi import PARAMETERS, OverlayConfig, Status

from ..axi.ports import WritePort, beat_layout
from ..jobs import outcome
from ..streams import SkidBuffer, delay
from .accumulators import FETCH_LATENCY
from .job import job_layout, result_lanes
from .output import OutputStage
from .scales import accumulator_bits
from .walk import RowWalk

__all__ = ["Drain"]


class Drain(Component):
    """Send rows of complete banks through the output stage, and report jobs in order.

    Members
    -------
    job : In(stream)
        Jobs, refused ones too.
    full, drained : In(2), Out(2)
        Accumulator banks.
    read_en, read_bank, read_row, read_data
        To and from the accumulators.
    parameters_full, parameters_place, parameters_lanes, parameters_release
        To and from the parameters.
    residual : In(stream)
        Beats of the residual.
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
        self.lanes = result_lanes(config)
        self.places = config.cols // self.lanes
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "full": In(2),
                "drained": Out(2),
                "read_en": Out(1),
                "read_bank": Out(1),
                "read_row": Out(ceil_log2(config.accumulator_rows)),
                "read_data": In(config.cols * accumulator_bits(config)),
                "parameters_full": In(1),
                "parameters_place": Out(ceil_log2(self.places)),
                "parameters_lanes": In(self.lanes * PARAMETERS.nbytes * 8),
                "parameters_release": Out(1),
                "residual": In(stream.Signature(beat_layout(config))),
                "write": Out(WritePort(config)),
                "read_error": In(1),
                "busy": In(data.ArrayLayout(32, 2)),
                "done": Out(stream.Signature(data.StructLayout({"status": 8, "busy": 32}))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = RowWalk(self.config, address="o_addr", stride="o_stride")
        m.submodules.ahead = ahead = RowWalk(self.config, address="o_addr", stride="o_stride")
        m.submodules.output = output = OutputStage(self.config)
        connect(m, flipped(self.residual), output.residual)
        connect(m, output.beat, flipped(self.write.data))
        self._requests(m, ahead)
        idle = self._rows(m, walk, output)
        self._jobs(m, (walk, ahead), idle & output.empty, output.error)
        return m

    def _requests(self, m, ahead):
        """Announce the rows of a bank when it is full, so that no row waits for its address."""
        self._announcing = active = Signal()
        self._announced = announced = Signal(2)  # all rows of the bank
        bank, offered = Signal(), Signal()
        m.submodules.requests = requests = SkidBuffer(self.write.request.p.shape())
        connect(m, requests.o, flipped(self.write.request))
        self._requesting = requests.o.valid
        m.d.comb += [
            requests.i.valid.eq(offered),
            requests.i.p.addr.eq(ahead.addr),
            requests.i.p.nbytes.eq(ahead.nbytes),
            ahead.step.eq(requests.i.valid & requests.i.ready),
        ]
        m.d.sync += [
            announced.eq(announced & ~self.drained),
            offered.eq(
                active & ahead.ready & (self.full & ~announced).bit_select(bank, 1) & ~ahead.step
            ),
        ]
        with m.If(ahead.step & ahead.last_row):
            m.d.sync += [bank.eq(~bank), announced.bit_select(bank, 1).eq(1)]
            with m.If(ahead.last):
                m.d.sync += active.eq(0)

    def _rows(self, m, walk, output):
        """Take rows from full banks, `lanes` columns a cycle; return whether none is under way."""
        config, lanes = self.config, self.lanes
        bits, width = accumulator_bits(config), lanes * accumulator_bits(config)
        job = walk.current
        self._active = active = Signal()
        bank, row = Signal(), Signal(range(config.accumulator_rows))
        turned = Signal()

        # A row waits at the memory's output until the one before it has gone; that one's `take` is
        # late, so the next is fetched in the cycle behind it.
        fetched, fetch, take = Signal(), Signal(), Signal()
        fetching = Signal(FETCH_LATENCY - 1)
        words = Signal(config.cols * bits, reset_less=True)
        left = Signal(range(self.places + 1), reset_less=True)
        # Words are there; they are the last ones of a row, or there are none.
        some, ends = Signal(), Signal(init=1)
        place = Signal(ceil_log2(self.places), reset_less=True)
        step = output.step
        # The words and what decides on them are far apart: each has a register of whether there is
        # room. One holds the inverse, so that synthesis does not take the two for one.
        stalls = delay(m, ~output.room, 1)
        shared = Signal()  # parameters may be used until the last row has left `words`
        # The row is there, its parameters are, and all addresses before the last row goes.
        ready, has_parameters, announced = Signal(), Signal(), Signal()
        m.d.sync += [
            has_parameters.eq(~shared & (~job.parameters | self.parameters_full)),
            announced.eq(self._announced.bit_select(bank, 1)),
            ready.eq(
                (fetched | fetching[-1])
                & ~take
                & walk.ready
                & ~shared
                & has_parameters
                & (~walk.last_row | announced)
            ),
        ]
        m.d.comb += [
            step.valid.eq(some),
            step.p.sums.eq(words[:width]),
            step.p.parameters.eq(self.parameters_lanes),
            step.p.w4.eq(job.w4),
            step.p.has_parameters.eq(job.parameters),
            step.p.requantize.eq(job.requantize),
            step.p.residual.eq(job.residual),
            step.p.last.eq(ends),
            self.parameters_place.eq(place),
            # When a row is ready, parameters are not shared.
            take.eq(ready & ends & ~stalls),
            walk.step.eq(take),
            self.read_bank.eq(bank),
            # `take` comes late: the row begins anew in the cycle behind that of the last one.
            turned.eq(self.drained.any()),
            self.read_row.eq(Mux(turned, 0, row)),
        ]
        m.d.sync += self.drained.eq(0)
        # What moves up need not be a row: then there are no words.
        with m.If(step.ready):
            m.d.sync += [
                words.eq(Mux(ends, self.read_data, Cat(words[width:], words[-width:]))),
                place.eq(Mux(ends, 0, place + 1)),
            ]
        with m.If(~stalls):
            m.d.sync += [
                left.eq(Mux(ends, walk.steps, left - 1)),
                some.eq(~ends | ready),
                ends.eq(Mux(ends, ~ready | (walk.steps == 1), left == 2)),
            ]
        m.d.sync += self.parameters_release.eq(shared & some & ends & ~stalls)
        with m.If(self.parameters_release):
            m.d.sync += shared.eq(0)
        with m.If(take):
            m.d.sync += [fetched.eq(0), shared.eq(job.parameters & walk.last_row)]
            with m.If(walk.last_row):
                m.d.sync += [self.drained.bit_select(bank, 1).eq(1), bank.eq(~bank)]
            with m.If(walk.last):
                m.d.sync += active.eq(0)
        m.d.comb += [
            fetch.eq(active & ~fetched & ~fetching.any() & self.full.bit_select(bank, 1)),
            self.read_en.eq(fetch),
        ]
        m.d.sync += fetching.eq((fetching << 1) | fetch)
        with m.If(turned):
            m.d.sync += row.eq(0)
        with m.Elif(fetching[0]):
            m.d.sync += row.eq(row + 1)
        with m.If(fetching[-1]):
            m.d.sync += fetched.eq(1)
        return ~active & ~some

    def _jobs(self, m, walks, idle, residual_error):
        """Take jobs, and report each when its last write was acknowledged."""
        job = Signal(job_layout(self.config), reset_less=True)
        parity = Signal(init=1)
        ends = Signal()
        status = outcome(
            m,
            job.refused,
            read_error=self.read_error | residual_error,
            write_error=self.write.error,
            ends=ends,
        )
        m.d.comb += [
            self.done.p.status.eq(status),
            *(walk.job.eq(job) for walk in walks),
        ]
        # Known late; rows leave long before they are written.
        written = delay(m, ~(self._requesting | self.write.busy), 1)
        over = delay(m, idle, 1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += job.eq(self.job.p)
                with m.If(self.job.valid):
                    m.next = "START"
            with m.State("START"):
                # Those that are refused begin as well, and end without a row.
                m.d.comb += [walk.start.eq(1) for walk in walks]
                m.d.sync += self.done.p.busy.eq(0)
                m.next = "END"
                with m.If(job.refused == Status.PENDING):
                    m.d.sync += [self._active.eq(1), self._announcing.eq(1), parity.eq(~parity)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):  # `over` is that of the job before
                m.next = "ROWS"
            with m.State("ROWS"):
                m.d.sync += self.done.p.busy.eq(self.busy[parity])
                with m.If(over & written):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += ends.eq(1)
                m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.next = "IDLE"
