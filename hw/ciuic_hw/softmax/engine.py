"""The softmax engine: descriptors in, rows read, rows written."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.utils import exact_log2

from ciuic.abi import Flag, Status, numerics
from ciuic.abi.descriptors import MAX_SIZE

from ..axi.ports import EngineSignature
from ..layouts import DESCRIPTOR_LAYOUT
from .datapath import SoftmaxDatapath
from .layouts import RESULT_FORMATS, SCORE_FORMATS, extent_layout
from .rows import RowLength, RowRequests

__all__ = ["SoftmaxEngine"]


class SoftmaxEngine(wiring.Component):
    """Softmax over rows in memory, `ciuic.reference.softmax` bit for bit.

    Rows follow each other without idle cycles: while one is normalized, the next goes through
    exp and the one after it is read. Only valid elements are read.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    descriptor, done, active, read, write
        As in `ciuic_hw.axi.ports.EngineSignature`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(EngineSignature(config))

    def elaborate(self, platform):
        m = Module()
        m.submodules.datapath = datapath = SoftmaxDatapath(self.config)
        job = Signal(DESCRIPTOR_LAYOUT)
        extent = Signal(extent_layout(self.config.max_row))
        start = Signal()
        refusal = Signal(Status)
        m.d.comb += [
            datapath.start.eq(start),
            datapath.extent.eq(extent),
            datapath.multiplier.eq(job.multiplier),
            datapath.shift.eq(job.shift),
            self.active.eq(datapath.active),
        ]
        self._modes(m, job, datapath)
        self._extent(m, job, extent)
        self._refuse(m, job, refusal)
        self._read(m, job, extent, start, datapath)
        finished = self._write(m, job, extent, start, datapath)
        status = self._errors(m, start)

        with m.If(start):
            m.d.sync += self.done.payload.busy.eq(0)
        with m.Elif(datapath.active):
            m.d.sync += self.done.payload.busy.eq(self.done.payload.busy + 1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.descriptor.ready.eq(1)
                with m.If(self.descriptor.valid):
                    m.d.sync += job.eq(self.descriptor.payload)
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += start.eq(refusal == Status.OK)
                m.d.sync += self.done.payload.status.eq(refusal)
                with m.If(start):
                    m.next = "RUN"
                with m.Else():
                    m.d.sync += self.done.payload.busy.eq(0)
                    m.next = "DONE"
            with m.State("RUN"):
                with m.If(finished):
                    m.d.sync += self.done.payload.status.eq(status)
                    m.next = "DONE"
            with m.State("DONE"):
                m.d.comb += self.done.valid.eq(1)
                with m.If(self.done.ready):
                    m.next = "IDLE"
        return m

    def _modes(self, m, job, datapath):
        for mode, one in enumerate(SCORE_FORMATS):
            with m.If(job.in_format == one):
                m.d.comb += datapath.score_mode.eq(mode)
        for mode, one in enumerate(RESULT_FORMATS):
            with m.If(job.out_format == one):
                m.d.comb += datapath.result_mode.eq(mode)

    def _extent(self, m, job, extent):
        causal = (job.flags & Flag.CAUSAL).any()
        limit = job.n - 1
        m.d.comb += [
            extent.limit.eq(limit),
            extent.first.eq(Mux(causal & (job.row_offset < limit), job.row_offset, limit)),
        ]

    def _refuse(self, m, job, refusal):
        """Say why a descriptor cannot be run, `Status.OK` if it can."""
        size = (job.m != 0) & (job.m <= MAX_SIZE) & (job.n != 0) & (job.n <= self.config.max_row)
        formats = _is_one_of(job.in_format, SCORE_FORMATS) & _is_one_of(
            job.out_format, RESULT_FORMATS
        )
        scale = (job.multiplier >> (numerics.MULTIPLIER_BITS - 1) == 1) & (
            job.shift <= numerics.MAX_SHIFT
        )
        with m.If(~size):
            m.d.comb += refusal.eq(Status.BAD_SIZE)
        with m.Elif(~(formats & scale)):
            m.d.comb += refusal.eq(Status.BAD_FORMAT)
        with m.Else():
            m.d.comb += refusal.eq(Status.OK)

    def _read(self, m, job, extent, start, datapath):
        """Request the valid elements of each row and pass the beats on."""
        m.submodules.length = length = RowLength(self.config.max_row)
        m.submodules.reads = reads = RowRequests(self.config)
        wiring.connect(m, reads.request, wiring.flipped(self.read.request))
        elements = length.last + 1
        m.d.comb += [
            length.start.eq(start),
            length.extent.eq(extent),
            length.step.eq(reads.request.valid & reads.request.ready),
            reads.start.eq(start),
            reads.base.eq(job.a_addr),
            reads.stride.eq(job.a_stride),
            reads.rows.eq(job.m),
            reads.nbytes.eq(_nbytes(elements, SCORE_FORMATS, datapath.score_mode)),
            reads.enable.eq(1),
            datapath.i.payload.eq(self.read.data.payload.data),
            datapath.i.valid.eq(self.read.data.valid),
            self.read.data.ready.eq(datapath.i.ready),
        ]

    def _write(self, m, job, extent, start, datapath):
        """Request the write of each row when its results come; return whether all is written."""
        m.submodules.writes = writes = RowRequests(self.config)
        wiring.connect(m, writes.request, wiring.flipped(self.write.request))
        begun = Signal(range(MAX_SIZE + 1))  # rows whose results come and that were not requested
        rows = Signal(range(MAX_SIZE + 1))  # rows that are not completely handed over
        requested = writes.request.valid & writes.request.ready
        handed_over = self.write.data.valid & self.write.data.ready & datapath.o.payload.final
        m.d.comb += [
            writes.start.eq(start),
            writes.base.eq(job.o_addr),
            writes.stride.eq(job.o_stride),
            writes.rows.eq(job.m),
            writes.nbytes.eq(_nbytes(job.n, RESULT_FORMATS, datapath.result_mode)),
            writes.enable.eq(begun.any()),
            self.write.data.payload.eq(datapath.o.payload.data),
            self.write.data.valid.eq(datapath.o.valid),
            datapath.o.ready.eq(self.write.data.ready),
        ]
        m.d.sync += begun.eq(begun + datapath.row_begin - requested)
        with m.If(start):
            m.d.sync += rows.eq(job.m)
        with m.Elif(handed_over):
            m.d.sync += rows.eq(rows - 1)
        return writes.done & ~rows.any() & ~self.write.busy

    def _errors(self, m, start):
        """Return the status that the memory's answers make, those of this cycle included."""
        read = self.read.data.valid & self.read.data.ready & self.read.data.payload.error
        seen_read, seen_write = Signal(), Signal()
        with m.If(start):
            m.d.sync += [seen_read.eq(0), seen_write.eq(0)]
        with m.Else():
            m.d.sync += [
                seen_read.eq(seen_read | read),
                seen_write.eq(seen_write | self.write.error),
            ]
        return Mux(
            seen_read,
            Status.READ_ERROR,
            Mux(seen_write | self.write.error, Status.WRITE_ERROR, Status.OK),
        )


def _is_one_of(value, formats):
    return Cat(value == one for one in formats).any()


def _nbytes(elements, formats, mode):
    shifts = Array(C(exact_log2(one.nbytes), 2) for one in formats)
    return elements << shifts[mode]
