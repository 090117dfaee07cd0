"""The three stages of the softmax engine and the FIFOs that let consecutive rows overlap."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from ..attention.ports import LanesPort
from ..axi.ports import beat_layout
from ..streams import PipelineFifo, SkidBuffer, delay
from .exponential import ExponentialStage
from .gearbox import Gearbox
from .layouts import (
    EXPONENTIAL,
    EXPONENTIAL_LATE,
    NORMALIZE_LATE,
    RECIPROCAL,
    RESULT_FORMATS,
    ROW_LATE,
    ROWS_WAITING,
    SCORE,
    SCORE_FORMATS,
    result_beat_layout,
    result_row_layout,
    row_layout,
    score_bytes_layout,
)
from .maximum import MaximumStage
from .normalize import WIDE, NormalizeStage

__all__ = ["SoftmaxDatapath"]

FIFO_LATENCY = 6  # cycles from an entry's arrival to a stage
ROOM_LATENCY = 1  # cycles from a FIFO that has room to a stage that knows
RESULTS_WAITING = 64  # words of results


class SoftmaxDatapath(wiring.Component):
    """Rows of scores to rows of results.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    row : In(stream)
        See `row_layout`: every row.
    score_bytes : In(stream)
        See `score_bytes_layout`: every row that is not empty.
    i : In(stream)
        See `beat_layout`: the valid scores of the same rows, from a fresh beat on.
    o : Out(stream)
        See `result_beat_layout`: results, all of each row.
    row_begin : Out(1)
        Strobe: results of one more row are under way.
    active : Out(1)
        The lanes take a word.
    borrower : In(LanesPort)
        See `ExponentialStage`.
    """

    def __init__(self, config):
        self.config = config
        super().__init__(
            {
                "row": In(stream.Signature(row_layout(config))),
                "score_bytes": In(stream.Signature(score_bytes_layout(config))),
                "i": In(stream.Signature(beat_layout(config))),
                "o": Out(stream.Signature(result_beat_layout(config))),
                "row_begin": Out(1),
                "active": Out(1),
                **({"borrower": In(LanesPort(config))} if config.attention else {}),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.maximum = maximum = MaximumStage(self.config)
        m.submodules.exponential = exponential = ExponentialStage(self.config)
        m.submodules.normalize = normalize = NormalizeStage(self.config)
        m.d.comb += self.active.eq(exponential.taken)
        if self.config.attention:
            wiring.connect(m, wiring.flipped(self.borrower), exponential.borrower)
        error = self._unpack(m, maximum)
        self._join_maximum(m, maximum, error, exponential)
        self._join_exponential(m, exponential, normalize)
        self._pack(m, normalize)
        return m

    def _unpack(self, m, maximum):
        """Feed words to the first stage; return whether a beat of its row was refused.

        Before the skid buffer: the gearbox ends the next row at the earliest when the last word of
        this one is taken, and the first beat of the next row comes at the earliest when this one
        ends.
        """
        lanes, bus_bytes = self.config.lanes, self.config.bus_bytes
        sizes = [one.nbytes for one in SCORE_FORMATS]
        mode = self.score_bytes.payload.mode
        m.submodules.unpack = unpack = Gearbox(
            [(bus_bytes, size * lanes) for size in sizes],
            max_bytes=self.config.max_row * 4,
            tag=mode.shape(),
        )
        word = data.StructLayout({"scores": data.ArrayLayout(SCORE, lanes), "error": 1})
        m.submodules.words = words = SkidBuffer(word)
        # The way back to memory's queue is long.
        m.submodules.beats = beats = SkidBuffer(self.i.payload.shape())
        wiring.connect(m, wiring.flipped(self.i), beats.i)
        error = Signal()
        m.d.comb += [
            unpack.row.payload.last_byte.eq(self.score_bytes.payload.last_byte),
            unpack.row.payload.mode.eq(mode),
            unpack.row.payload.tag.eq(mode),
            unpack.row.valid.eq(self.score_bytes.valid),
            self.score_bytes.ready.eq(unpack.row.ready),
            unpack.i.payload.eq(beats.o.payload.data),
            unpack.i.valid.eq(beats.o.valid),
            beats.o.ready.eq(unpack.i.ready),
            words.i.payload.error.eq(error),
            words.i.valid.eq(unpack.o.valid),
            unpack.o.ready.eq(words.i.ready),
            maximum.i.payload.eq(words.o.payload.scores),
            maximum.i.valid.eq(words.o.valid),
            words.o.ready.eq(maximum.i.ready),
        ]
        with m.Switch(unpack.o.payload.tag):
            for index, size in enumerate(sizes):
                with m.Case(index):
                    for lane in range(lanes):
                        score = unpack.o.payload.data.word_select(lane, 8 * size)
                        m.d.comb += words.i.payload.scores[lane].eq(score.as_signed())

        beat = beats.o.payload
        inside, refused = Signal(), Signal()
        with m.If(beats.o.valid & beats.o.ready):
            m.d.sync += [inside.eq(~beat.last), refused.eq(beat.error | (inside & refused))]
        with m.If(unpack.row_end):
            m.d.sync += error.eq(refused)
        return words.o.payload.error

    def _join_maximum(self, m, maximum, error, exponential):
        words = self.config.max_row // self.config.lanes
        overlap = maximum.latency + 2 * FIFO_LATENCY
        m.submodules.scores = scores = PipelineFifo(
            data.ArrayLayout(SCORE, self.config.lanes),
            depth=_memory(words + overlap),
            latency=ROOM_LATENCY,
        )
        m.submodules.maxima = maxima = PipelineFifo(
            SCORE, depth=ROWS_WAITING, latency=ROOM_LATENCY + maximum.latency
        )
        m.submodules.rows = rows = PipelineFifo(
            row_layout(self.config), depth=ROWS_WAITING, latency=ROOM_LATENCY + 1
        )
        wiring.connect(m, scores.o, exponential.i)
        coming = self._take_rows(m, "coming", maximum.row, ROW_LATE, self.row)
        known = self._take_rows(m, "known", exponential.row, EXPONENTIAL_LATE, rows.o, maxima.o)
        row = maximum.row.payload
        m.d.comb += [
            coming.i.payload.eq(self.row.payload.words),
            coming.i_late.eq(self.row.payload.late),
            known.i.payload.eq(rows.o.payload.words),
            known.i_late.row.eq(rows.o.payload.late),
            known.i_late.maximum.eq(maxima.o.payload),
            exponential.row_late.eq(known.late),
            maximum.room.eq(_room(m, scores, maxima, rows)),
            scores.valid.eq(maximum.taken),
            scores.payload.eq(maximum.i.payload),
            maxima.valid.eq(maximum.valid),
            maxima.payload.eq(maximum.maximum),
            # In the cycle behind its last word all of a row is known.
            rows.valid.eq(delay(m, maximum.row_end, 1)),
            rows.payload.words.eq(_later(m, row)),
            rows.payload.late.eq(coming.late),
        ]
        with m.If(delay(m, error & ~row.empty, 1)):
            m.d.comb += rows.payload.late.result.error.eq(1)

    def _join_exponential(self, m, exponential, normalize):
        words = self.config.max_row // self.config.lanes
        overlap = exponential.row_latency + 2 * FIFO_LATENCY
        m.submodules.exponentials = exponentials = PipelineFifo(
            data.ArrayLayout(EXPONENTIAL, self.config.lanes),
            depth=_memory(words + overlap),
            latency=ROOM_LATENCY + exponential.word_latency,
        )
        m.submodules.reciprocals = reciprocals = PipelineFifo(
            RECIPROCAL, depth=ROWS_WAITING, latency=ROOM_LATENCY + exponential.row_latency
        )
        m.submodules.result_rows = rows = PipelineFifo(
            result_row_layout(self.config), depth=ROWS_WAITING, latency=ROOM_LATENCY + 1
        )
        wiring.connect(m, exponentials.o, normalize.i)
        summed = self._take_rows(m, "summed", normalize.row, NORMALIZE_LATE, rows.o, reciprocals.o)
        m.d.comb += [
            summed.i.payload.eq(rows.o.payload.span),
            summed.i_late.result.eq(rows.o.payload.result),
            summed.i_late.reciprocal.eq(reciprocals.o.payload),
            normalize.row_late.eq(summed.late),
            exponential.room.eq(_room(m, exponentials, reciprocals, rows)),
            exponentials.valid.eq(exponential.word_valid),
            exponentials.payload.eq(exponential.word),
            reciprocals.valid.eq(exponential.reciprocal_valid),
            reciprocals.payload.eq(exponential.reciprocal),
            rows.valid.eq(delay(m, exponential.row_end, 1)),
            rows.payload.span.eq(_later(m, exponential.row.payload.span)),
            rows.payload.result.eq(exponential.row_late.row.result),
        ]

    def _take_rows(self, m, name, port, late, *streams):
        """Let what is known of a row leave streams together, so that a stage waits for one.

        The stage takes the row when it has taken its last word, which is late. So what it does not
        need before the cycle behind a word does not hang on that. Return the buffer between, whose
        payloads are to be driven.
        """
        m.submodules[name] = rows = SkidBuffer(port.payload.shape(), late=late)
        m.d.comb += [
            rows.i.valid.eq(Cat(one.valid for one in streams).all()),
            *(one.ready.eq(rows.i.valid & rows.i.ready) for one in streams),
        ]
        wiring.connect(m, rows.o, port)
        return rows

    def _pack(self, m, normalize):
        """Make beats of the results."""
        lanes, bus_bytes = self.config.lanes, self.config.bus_bytes
        sizes = [one.nbytes for one in RESULT_FORMATS]
        m.submodules.results = results = PipelineFifo(
            WIDE * lanes, depth=RESULTS_WAITING, latency=ROOM_LATENCY + normalize.latency
        )
        m.submodules.leaving = rows = PipelineFifo(
            result_row_layout(self.config), depth=ROWS_WAITING, latency=ROOM_LATENCY + 1
        )
        m.submodules.pack = pack = Gearbox(
            [(size * lanes, bus_bytes) for size in sizes],
            max_bytes=self.config.max_row * 2,
            tag=result_row_layout(self.config),
        )
        wiring.connect(m, results.o, pack.i)
        words = Array(Cat(one[: 8 * size] for one in normalize.word) for size in sizes)
        last_bytes = Array(
            (rows.o.payload.span.limit << exact_log2(size)) | (size - 1) for size in sizes
        )
        m.d.sync += self.row_begin.eq(normalize.row_begin)
        m.d.comb += [
            normalize.room.eq(_room(m, results, rows)),
            results.valid.eq(normalize.valid),
            results.payload.eq(words[normalize.narrow]),
            rows.valid.eq(self.row_begin),
            rows.payload.span.eq(_later(m, normalize.row.payload)),
            rows.payload.result.eq(normalize.row_late.result),
            pack.row.valid.eq(rows.o.valid),
            pack.row.payload.mode.eq(rows.o.payload.result.narrow),
            pack.row.payload.last_byte.eq(last_bytes[rows.o.payload.result.narrow]),
            pack.row.payload.tag.eq(rows.o.payload),
            rows.o.ready.eq(pack.row.ready),
            self.o.valid.eq(pack.o.valid),
            self.o.payload.data.eq(pack.o.payload.data),
            self.o.payload.final.eq(pack.o.payload.final),
            self.o.payload.row.eq(pack.o.payload.tag),
            pack.o.ready.eq(self.o.ready),
        ]


def _later(m, payload):
    """Return a payload as it was in the cycle before."""
    return payload.shape()(delay(m, Value.cast(payload), 1, reset_less=True))


def _room(m, *fifos):
    """Return whether all FIFOs have room, `ROOM_LATENCY` cycles later."""
    return delay(m, Cat(fifo.room for fifo in fifos).all(), ROOM_LATENCY)


def _memory(entries):
    """Return a depth of a FIFO that makes its block RAM a single bank, without logic behind it."""
    return 1 << ceil_log2(entries)
