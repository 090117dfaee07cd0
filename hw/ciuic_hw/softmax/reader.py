"""The head of the softmax engine: descriptors in, rows and requests of their scores out."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import Flag, Status, numerics
from ciuic.abi.descriptors import MAX_SIZE

from ..axi.ports import ReadPort, request_layout
from ..layouts import DESCRIPTOR_LAYOUT
from .gearbox import Gearbox
from .layouts import (
    RESULT_FORMATS,
    SCORE_FORMATS,
    row_layout,
    score_bytes_layout,
    write_job_layout,
)
from .rows import LENGTH_BITS, RowAddresses, RowLengths

__all__ = ["RowReader"]

ROWS_AHEAD = 64  # rows that are requested and not yet complete: covers the memory's latency


class RowReader(wiring.Component):
    """Check descriptors and walk through their rows.

    The next descriptor is taken when all rows of the last are requested, so the stages find the
    rows of one right behind those of another.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    descriptor : In(stream)
        Descriptors.
    job : Out(stream)
        See `write_job_layout`: each descriptor, before its first row.
    request : Out(stream)
        The scores of each row that is not empty.
    score_bytes : Out(stream)
        See `score_bytes_layout`: the same rows.
    row : Out(stream)
        See `row_layout`: every row.
    lengths : Out(ReadPort)
        Lengths of rows, with ``Flag.LENGTHS``.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "descriptor": In(stream.Signature(DESCRIPTOR_LAYOUT)),
                "job": Out(stream.Signature(write_job_layout(config))),
                "request": Out(stream.Signature(request_layout(config))),
                "score_bytes": Out(stream.Signature(score_bytes_layout(config))),
                "row": Out(stream.Signature(row_layout(config))),
                "lengths": Out(ReadPort(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.addresses = addresses = RowAddresses(config)
        m.submodules.lengths = lengths = RowLengths(config.max_row)
        descriptor = Signal(DESCRIPTOR_LAYOUT)
        start, walking = Signal(), Signal()
        limit = descriptor.n - 1
        causal = (descriptor.flags & Flag.CAUSAL).any()
        m.d.comb += [
            addresses.start.eq(start),
            addresses.base.eq(descriptor.a_addr),
            addresses.stride.eq(descriptor.a_stride),
            addresses.rows.eq(descriptor.m),
            lengths.start.eq(start),
            lengths.limit.eq(limit),
            lengths.first.eq(
                Mux(causal & (descriptor.row_offset < limit), descriptor.row_offset, limit)
            ),
            lengths.listed.eq((descriptor.flags & Flag.LENGTHS).any()),
        ]
        status = self._check(m, descriptor)
        error = self._lengths(m, descriptor, lengths, start)
        self._rows(m, descriptor, addresses, lengths, walking, error)

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptor.ready.eq(1)
                with m.If(self.descriptor.valid):
                    m.d.sync += descriptor.eq(self.descriptor.payload)
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.d.comb += self.job.valid.eq(1)
                with m.If(self.job.ready):
                    m.next = "TAKE"
                    with m.If(status == Status.OK):
                        m.d.comb += start.eq(1)
                        m.next = "LENGTHS"
            with m.State("LENGTHS"):
                m.d.comb += self.lengths.request.valid.eq(lengths.listed)
                with m.If(self.lengths.request.ready | ~lengths.listed):
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += walking.eq(~addresses.done)
                with m.If(addresses.done):
                    m.next = "TAKE"
        return m

    def _check(self, m, descriptor):
        """Offer the job; return why the descriptor cannot be run, `Status.OK` if it can."""
        status = Signal(Status)
        size = (
            (descriptor.m != 0)
            & (descriptor.m <= MAX_SIZE)
            & (descriptor.n != 0)
            & (descriptor.n <= self.config.max_row)
        )
        formats = _is_one_of(descriptor.in_format, SCORE_FORMATS) & _is_one_of(
            descriptor.out_format, RESULT_FORMATS
        )
        scale = (descriptor.multiplier >> (numerics.MULTIPLIER_BITS - 1) == 1) & (
            descriptor.shift <= numerics.MAX_SHIFT
        )
        with m.If(~size):
            m.d.comb += status.eq(Status.BAD_SIZE)
        with m.Elif(~(formats & scale)):
            m.d.comb += status.eq(Status.BAD_FORMAT)
        with m.Else():
            m.d.comb += status.eq(Status.OK)
        m.d.comb += [
            self.job.payload.addr.eq(descriptor.o_addr),
            self.job.payload.stride.eq(descriptor.o_stride),
            self.job.payload.rows.eq(descriptor.m),
            self.job.payload.nbytes.eq(
                _nbytes(descriptor.n, RESULT_FORMATS, _mode(descriptor.out_format, RESULT_FORMATS))
            ),
            self.job.payload.status.eq(status),
        ]
        return status

    def _lengths(self, m, descriptor, lengths, start):
        """Read the lengths of the rows; return whether the memory refused some of them."""
        nbytes = descriptor.m << exact_log2(LENGTH_BITS // 8)
        m.submodules.unpack = unpack = Gearbox(
            [(self.config.bus_bytes, LENGTH_BITS // 8)], max_bytes=(MAX_SIZE + 1) * LENGTH_BITS // 8
        )
        read = self.lengths
        m.d.comb += [
            read.request.payload.addr.eq(descriptor.p_addr),
            read.request.payload.nbytes.eq(nbytes),
            unpack.last_byte.eq(nbytes - 1),
            unpack.i.payload.eq(read.data.payload.data),
            unpack.i.valid.eq(read.data.valid),
            read.data.ready.eq(unpack.i.ready),
            lengths.i.payload.eq(unpack.o.payload.data),
            lengths.i.valid.eq(unpack.o.valid),
            unpack.o.ready.eq(lengths.i.ready),
        ]
        error = Signal()
        with m.If(start):
            m.d.sync += error.eq(0)
        with m.Elif(read.data.valid & read.data.ready & read.data.payload.error):
            m.d.sync += error.eq(1)
        return error

    def _rows(self, m, descriptor, addresses, lengths, walking, error):
        """Request one row after the other and tell the stages of it."""
        config = self.config
        m.submodules.score_bytes = score_bytes = SyncFIFOBuffered(
            width=len(Value.cast(self.score_bytes.payload)), depth=ROWS_AHEAD
        )
        m.submodules.rows = rows = SyncFIFOBuffered(
            width=len(Value.cast(self.row.payload)), depth=ROWS_AHEAD
        )
        for fifo, port in ((score_bytes, self.score_bytes), (rows, self.row)):
            m.d.comb += [
                Value.cast(port.payload).eq(fifo.r_data),
                port.valid.eq(fifo.r_rdy),
                fifo.r_en.eq(port.ready),
            ]

        length = lengths.o.payload
        mode = _mode(descriptor.in_format, SCORE_FORMATS)
        nbytes = _nbytes(length.last + 1, SCORE_FORMATS, mode)
        row = Signal(row_layout(config))
        bytes_read = Signal(score_bytes_layout(config))
        ready, step = Signal(), Signal()
        m.d.comb += [
            ready.eq(walking & lengths.o.valid & rows.w_rdy & score_bytes.w_rdy),
            self.request.payload.addr.eq(addresses.addr),
            self.request.payload.nbytes.eq(nbytes),
            self.request.valid.eq(ready & ~length.empty),
            step.eq(ready & (self.request.ready | length.empty)),
            addresses.step.eq(step),
            lengths.o.ready.eq(step),
            row.result.last.eq(length.last),
            row.result.limit.eq(lengths.limit),
            row.result.narrow.eq(_mode(descriptor.out_format, RESULT_FORMATS)),
            row.result.error.eq(error),
            row.empty.eq(length.empty),
            row.mode.eq(mode),
            row.multiplier.eq(descriptor.multiplier),
            row.shift.eq(descriptor.shift),
            rows.w_data.eq(row),
            rows.w_en.eq(step),
            bytes_read.last.eq(nbytes - 1),
            bytes_read.mode.eq(mode),
            score_bytes.w_data.eq(bytes_read),
            score_bytes.w_en.eq(step & ~length.empty),
        ]


def _is_one_of(value, formats):
    return Cat(value == one for one in formats).any()


def _mode(value, formats):
    """Return the index of a format; zero if it is none of them."""
    mode = C(0)
    for index, one in enumerate(formats):
        mode = mode | Mux(value == one, index, 0)
    return mode


def _nbytes(elements, formats, mode):
    shifts = Array(C(exact_log2(one.nbytes), 2) for one in formats)
    return elements << shifts[mode]
