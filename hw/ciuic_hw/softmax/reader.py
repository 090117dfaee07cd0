"""The head of the softmax engine: descriptors in, rows and requests of their scores out."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import Flag, Status, numerics
from ciuic.abi.descriptors import MAX_SIZE

from ..arithmetic import countdown, less
from ..axi.ports import ReadPort, request_layout
from ..layouts import DESCRIPTOR_LAYOUT
from ..streams import PipelineFifo, SkidBuffer, delay
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
        descriptor = Signal(DESCRIPTOR_LAYOUT, reset_less=True)
        start, walking = Signal(), Signal()
        # What is the same for all rows; known a cycle after the descriptor is.
        limit, first, whole = (Signal(range(config.max_row), reset_less=True) for _ in range(3))
        causal = Signal()
        m.d.sync += [limit.eq(whole), first.eq(Mux(causal, descriptor.row_offset, whole))]
        m.d.comb += [
            addresses.start.eq(start),
            addresses.base.eq(descriptor.a_addr),
            addresses.stride.eq(descriptor.a_stride),
            addresses.rows.eq(descriptor.m),
            lengths.start.eq(delay(m, start, 1)),
            lengths.limit.eq(limit),
            lengths.first.eq(first),
            lengths.listed.eq((descriptor.flags & Flag.LENGTHS).any()),
        ]
        runs = self._check(m, descriptor)
        error = self._lengths(m, descriptor, lengths, start)
        self._rows(m, descriptor, addresses, lengths, walking, error)

        with m.FSM():
            with m.State("TAKE"):
                m.d.comb += self.descriptor.ready.eq(1)
                coming = self.descriptor.payload
                m.d.sync += [
                    descriptor.eq(coming),
                    whole.eq(coming.n - 1),
                    causal.eq(
                        (coming.flags & Flag.CAUSAL).any() & less(coming.row_offset, coming.n)
                    ),
                ]
                with m.If(self.descriptor.valid):
                    m.next = "CHECK"
            with m.State("CHECK"):
                m.next = "JUDGE"
            with m.State("JUDGE"):
                m.next = "JOB"
            with m.State("JOB"):
                # Those that are refused begin as well, and end without a row.
                m.d.comb += [self.job.valid.eq(1), start.eq(1)]
                with m.If(self.job.ready):
                    m.next = "TAKE"
                    with m.If(runs):
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
        """Say in the job whether the descriptor can be run, and why it cannot; return whether.

        It is known in the second cycle behind the descriptor.
        """
        status, known = Signal(Status), Signal(Status, reset_less=True)
        narrow, runs = Signal(), Signal()
        wrong_size, wrong_format = Signal(4), Signal(4)
        m.d.sync += [
            narrow.eq(_mode(descriptor.out_format, RESULT_FORMATS)),
            wrong_size.eq(
                Cat(
                    descriptor.m == 0,
                    descriptor.m > MAX_SIZE,
                    descriptor.n == 0,
                    descriptor.n > self.config.max_row,
                )
            ),
            wrong_format.eq(
                Cat(
                    ~_is_one_of(descriptor.in_format, SCORE_FORMATS),
                    ~_is_one_of(descriptor.out_format, RESULT_FORMATS),
                    descriptor.multiplier >> (numerics.MULTIPLIER_BITS - 1) != 1,
                    descriptor.shift > numerics.MAX_SHIFT,
                )
            ),
        ]
        with m.If(wrong_size.any()):
            m.d.comb += status.eq(Status.BAD_SIZE)
        with m.Elif(wrong_format.any()):
            m.d.comb += status.eq(Status.BAD_FORMAT)
        with m.Else():
            m.d.comb += status.eq(Status.OK)
        m.d.sync += [known.eq(status), runs.eq(status == Status.OK)]
        m.d.comb += [
            self.job.payload.addr.eq(descriptor.o_addr),
            self.job.payload.stride.eq(descriptor.o_stride),
            self.job.payload.rows.eq(descriptor.m),
            self.job.payload.nbytes.eq(_nbytes(descriptor.n, RESULT_FORMATS, narrow)),
            self.job.payload.runs.eq(runs),
            self.job.payload.status.eq(known),
        ]
        return runs

    def _lengths(self, m, descriptor, lengths, start):
        """Read the lengths of the rows; return whether the memory refused some of them."""
        nbytes = Signal(range((MAX_SIZE + 1) * LENGTH_BITS // 8), reset_less=True)
        m.d.sync += nbytes.eq(descriptor.m << exact_log2(LENGTH_BITS // 8))
        # A beat waits here until its lengths are taken, or until the next rows' ones are requested.
        # As rows are three cycles apart, the next beat may be late: its way is long.
        beat, count = self.lengths.data, self.config.bus_bytes * 8 // LENGTH_BITS
        held = Signal(count * LENGTH_BITS, reset_less=True)
        some, left = Signal(), Signal(range(count))  # behind the one at hand
        asked, step = Signal(), Signal()
        more = countdown(m, descriptor.m, start=asked, step=step)  # lengths to be taken
        m.d.comb += [
            self.lengths.request.payload.addr.eq(descriptor.p_addr),
            self.lengths.request.payload.nbytes.eq(nbytes),
            asked.eq(self.lengths.request.valid & self.lengths.request.ready),
            beat.ready.eq(~some),
            lengths.i.payload.eq(held),
            lengths.i.valid.eq(some & more),
            step.eq(lengths.i.valid & lengths.i.ready),
        ]
        with m.If(~some):
            m.d.sync += [
                held.eq(beat.payload.data),
                some.eq(beat.valid),
                left.eq(count - 1),
            ]
        with m.Elif(step):
            m.d.sync += [held.eq(held >> LENGTH_BITS), some.eq(left != 0), left.eq(left - 1)]
        with m.If(asked):
            m.d.sync += some.eq(0)
        error, refused = Signal(), Signal()
        m.d.sync += refused.eq(beat.valid & beat.ready & beat.payload.error)
        with m.If(start):
            m.d.sync += error.eq(0)
        with m.Elif(refused):
            m.d.sync += error.eq(1)
        return error

    def _rows(self, m, descriptor, addresses, lengths, walking, error):
        """Request one row after the other and tell the stages of it."""
        config = self.config
        # Rows are allowed, decided on, described, and stored with a request: a cycle each. It takes
        # until the last is stored to know whether there is room for the next one's request.
        m.submodules.score_bytes = score_bytes = PipelineFifo(
            self.score_bytes.payload.shape(), depth=ROWS_AHEAD, latency=2
        )
        m.submodules.rows = rows = PipelineFifo(
            self.row.payload.shape(), depth=ROWS_AHEAD, latency=2
        )
        wiring.connect(m, score_bytes.o, wiring.flipped(self.score_bytes))
        wiring.connect(m, rows.o, wiring.flipped(self.row))
        m.submodules.requests = requests = SkidBuffer(self.request.payload.shape())
        wiring.connect(m, requests.o, wiring.flipped(self.request))

        length = lengths.o.payload
        mode = Signal.like(self.score_bytes.payload.mode)
        row = Signal(row_layout(config), reset_less=True)
        element = _nbytes(1, SCORE_FORMATS, mode)
        allowed, described, step = Signal(), Signal(), Signal()
        nbytes, addr = Signal(32, reset_less=True), Signal.like(addresses.addr, reset_less=True)
        last_byte = Signal.like(self.score_bytes.payload.last_byte, reset_less=True)
        lane_bits = exact_log2(config.lanes)
        m.d.comb += [
            step.eq(allowed & lengths.o.valid),
            addresses.step.eq(described),
            lengths.o.ready.eq(step),
        ]
        m.d.sync += [
            allowed.eq(
                walking & rows.room & score_bytes.room & requests.i.ready & ~step & ~described
            ),
            mode.eq(_mode(descriptor.in_format, SCORE_FORMATS)),
            described.eq(step),
            addr.eq(addresses.addr),
            nbytes.eq(_nbytes(length.last + 1, SCORE_FORMATS, mode)),
            last_byte.eq(_nbytes(length.last, SCORE_FORMATS, mode) | (element - 1)),
            row.words.span.last.eq(length.last),
            row.words.span.limit.eq(lengths.limit),
            row.words.span.short.eq(length.last >> lane_bits == 0),
            row.words.span.single.eq(lengths.limit >> lane_bits == 0),
            row.late.result.narrow.eq(_mode(descriptor.out_format, RESULT_FORMATS)),
            row.late.result.error.eq(error),
            row.words.empty.eq(length.empty),
            row.late.multiplier.eq(descriptor.multiplier),
            row.late.shift.eq(descriptor.shift),
        ]
        m.d.comb += [
            requests.i.payload.addr.eq(addr),
            requests.i.payload.nbytes.eq(nbytes),
            requests.i.valid.eq(described & ~row.words.empty),
            rows.payload.eq(row),
            rows.valid.eq(described),
            score_bytes.payload.last_byte.eq(last_byte),
            score_bytes.payload.mode.eq(mode),
            score_bytes.valid.eq(described & ~row.words.empty),
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
