"""The tail of the softmax engine: rows of results to memory, and the answer to each descriptor."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import Status

from ..arithmetic import countdown
from ..axi.ports import EngineSignature, WritePort, requests_open
from ..jobs import status_of
from ..streams import SkidBuffer, delay
from .layouts import ROWS_WAITING, result_beat_layout, write_job_layout
from .rows import RowAddresses

__all__ = ["RowWriter"]

JOBS_AHEAD = 4  # descriptors whose rows are in the stages, while an earlier one is written


class RowWriter(wiring.Component):
    """Write the rows of each job and answer when the memory has acknowledged the last.

    Members
    -------
    job : In(stream)
        See `write_job_layout`.
    row_begin : In(1)
        Strobe: results of one more row are under way.
    i : In(stream)
        See `result_beat_layout`.
    write : Out(WritePort)
        Memory.
    done : Out(stream)
        As in `ciuic_hw.axi.ports.EngineSignature`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(write_job_layout(config))),
                "row_begin": In(1),
                "i": In(stream.Signature(result_beat_layout(config))),
                "write": Out(WritePort(config)),
                "done": EngineSignature(config).members["done"],
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.jobs = jobs = SyncFIFOBuffered(
            width=len(Value.cast(self.job.payload)), depth=JOBS_AHEAD
        )
        m.submodules.addresses = addresses = RowAddresses(self.config)
        job = Signal(write_job_layout(self.config))
        # Rows whose results come, not requested: how many, and whether there are some.
        begun, some = Signal(range(2 * ROWS_WAITING)), Signal()
        take, start, row_written = Signal(), Signal(), Signal()
        requested, stepped, settling = Signal(), Signal(), Signal()
        # Of the job that runs.
        stride, nbytes = (Signal(32, reset_less=True) for _ in range(2))
        refused = Signal(Status, reset_less=True)
        # Beats and requests have a long way to the write channel.
        m.submodules.beats = beats = SkidBuffer(self.i.payload.shape())
        m.submodules.requests = requests = SkidBuffer(self.write.request.payload.shape())
        wiring.connect(m, wiring.flipped(self.i), beats.i)
        wiring.connect(m, requests.o, wiring.flipped(self.write.request))
        request, beat = requests.i, beats.o
        more = countdown(m, job.rows, start=start, step=row_written)  # to be handed over
        m.d.comb += [
            jobs.w_data.eq(self.job.payload),
            jobs.w_en.eq(self.job.valid),
            self.job.ready.eq(jobs.w_rdy),
            job.eq(jobs.r_data),
            jobs.r_en.eq(take),
            addresses.start.eq(start),
            addresses.base.eq(job.addr),
            addresses.stride.eq(stride),
            addresses.rows.eq(job.rows),
            addresses.step.eq(stepped),
            request.payload.addr.eq(addresses.addr),
            request.payload.nbytes.eq(nbytes),
            # A request without data would keep the write channel from other engines.
            request.valid.eq(some & ~addresses.done & ~stepped & ~settling),
            requested.eq(request.valid & request.ready),
            self.write.data.payload.eq(beat.payload.data),
            # Beats of the next job wait until this one is complete.
            self.write.data.valid.eq(beat.valid & more),
            beat.ready.eq(self.write.data.ready & more),
            row_written.eq(beat.valid & beat.ready & beat.payload.final),
        ]
        begins = delay(m, self.row_begin, 1)
        # The address follows a cycle behind, and takes two.
        m.d.sync += [stepped.eq(requested), settling.eq(stepped)]
        m.d.sync += [
            begun.eq(begun + begins - requested),
            some.eq(begins | begun[1:].any() | (some & ~requested)),
        ]
        written = delay(m, row_written, 1)
        with m.If(take):
            m.d.sync += [stride.eq(job.stride), nbytes.eq(job.nbytes), refused.eq(job.status)]
        busy = self._count(m, beat.payload.row, take, written)
        read_error = Signal()
        with m.If(start):
            m.d.sync += read_error.eq(0)
        with m.Elif(row_written):
            m.d.sync += read_error.eq(read_error | beat.payload.row.result.error)

        end, reporting = Signal(), Signal()
        m.d.sync += [take.eq(0), start.eq(0)]
        begin = [take.eq(1), start.eq(job.runs)]  # many registers hang on them
        with m.FSM():
            with m.State("IDLE"):
                with m.If(jobs.r_rdy):
                    m.d.sync += begin
                    m.next = "TAKE"
            with m.State("TAKE"):
                m.next = "RUN"
            with m.State("RUN"):
                with m.If(addresses.done & ~more & ~reporting):
                    m.next = "END"
            with m.State("END"):  # `busy` counts the last row
                m.d.comb += end.eq(1)
                m.next = "IDLE"
                with m.If(jobs.r_rdy):
                    m.d.sync += begin
                    m.next = "TAKE"
        self._report(m, end, reporting, requested, refused, read_error, busy)
        return m

    def _report(self, m, end, reporting, requested, refused, read_error, busy):
        """Answer to the job that ends once its requests are acknowledged; the next runs meanwhile.

        Answers come in order. So those that were open when a job ended are its own, and so is a
        refusal until they are all there.
        """
        # Without acknowledgement: two more wait in the buffer here.
        open_ = Signal(range(requests_open(self.config) + 3))
        # Those of the job that is reported; some are left.
        own, owed = Signal.like(open_, reset_less=True), Signal()
        acknowledged, error = self.write.acknowledged, self.write.error
        read, words = Signal(), Signal.like(busy, reset_less=True)
        reason = Signal(Status, reset_less=True)
        write_error, later_error = Signal(), Signal()  # of the job that is reported, that runs
        status = status_of(m, reason, read, write_error)
        # The last request of a job is two cycles before its end.
        m.d.sync += open_.eq(open_ + delay(m, requested, 1) - acknowledged)
        with m.If(end):
            m.d.sync += [
                reporting.eq(1),
                write_error.eq(later_error | error),
                later_error.eq(0),
                own.eq(open_ - acknowledged),
                owed.eq(1),
                reason.eq(refused),
                read.eq(read_error & (refused == Status.OK)),
                words.eq(busy),
            ]
        with m.Elif(reporting & own.any()):
            m.d.sync += write_error.eq(write_error | error)
        with m.Else():
            m.d.sync += later_error.eq(later_error | error)
        with m.If(self.done.ready):
            m.d.sync += self.done.valid.eq(0)
        with m.If(reporting):
            m.d.sync += [own.eq(Mux(own.any(), own - acknowledged, 0)), owed.eq(own.any())]
            with m.If(~owed & ~self.done.valid):
                m.d.sync += [
                    reporting.eq(0),
                    self.done.valid.eq(1),
                    self.done.payload.status.eq(status),
                    self.done.payload.busy.eq(words),
                ]

    def _count(self, m, row, take, written):
        """Return the words that the lanes took for the rows written, a cycle behind each."""
        busy = Signal(32, reset_less=True)
        words = delay(m, (row.span.last >> exact_log2(self.config.lanes)) + 1, 1)
        with m.If(delay(m, take, 1)):
            m.d.sync += busy.eq(0)
        with m.Elif(written):
            m.d.sync += busy.eq(busy + words)
        return busy
