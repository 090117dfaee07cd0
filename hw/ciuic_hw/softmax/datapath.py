"""The three stages of the softmax engine and the FIFOs that let consecutive rows overlap."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ciuic.abi import numerics

from .exponential import ExponentialStage
from .gearbox import Gearbox
from .layouts import (
    EXPONENTIAL,
    RECIPROCAL,
    RESULT_FORMATS,
    SCORE,
    SCORE_FORMATS,
    extent_layout,
)
from .maximum import MaximumStage
from .normalize import NormalizeStage
from .pipeline import PipelineFifo
from .rows import RowLength

__all__ = ["SoftmaxDatapath"]

FIFO_LATENCY = 2  # cycles from an entry's arrival to its departure
ROWS_WAITING = 32  # rows between two stages: enough for rows of one word
RESULTS_WAITING = 32  # words of results


class SoftmaxDatapath(wiring.Component):
    """Rows of scores to rows of results.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig

    Members
    -------
    start : In(1)
        Strobe: the parameters below hold for the rows that follow.
    extent : In(extent_layout)
        Lengths of the rows.
    score_mode, result_mode : In
        Index of the format in `SCORE_FORMATS` and `RESULT_FORMATS`.
    multiplier, shift : In
        Fields of `ciuic.abi.numerics.SoftmaxScale`.
    i : In(stream)
        Beats of scores: the valid ones of each row, from a fresh beat on.
    o : Out(stream)
        Beats of results, all of each row: ``data``; ``final`` at the last beat of a row.
    row_begin : Out(1)
        Strobe: results of one more row are under way.
    active : Out(1)
        The lanes take a word.
    """

    def __init__(self, config):
        self.config = config
        beat = data.StructLayout({"data": 8 * config.bus_bytes, "final": 1})
        super().__init__(
            {
                "start": In(1),
                "extent": In(extent_layout(config.max_row)),
                "score_mode": In(range(len(SCORE_FORMATS))),
                "result_mode": In(range(len(RESULT_FORMATS))),
                "multiplier": In(numerics.MULTIPLIER_BITS),
                "shift": In(range(numerics.MAX_SHIFT + 1)),
                "i": In(stream.Signature(8 * config.bus_bytes)),
                "o": Out(stream.Signature(beat)),
                "row_begin": Out(1),
                "active": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.maximum = maximum = MaximumStage(config)
        m.submodules.exponential = exponential = ExponentialStage(config)
        m.submodules.normalize = normalize = NormalizeStage(config)
        for stage in (maximum, exponential, normalize):
            m.d.comb += [stage.start.eq(self.start), stage.extent.eq(self.extent)]
        m.d.comb += [
            exponential.multiplier.eq(self.multiplier),
            exponential.shift.eq(self.shift),
            normalize.narrow.eq(self.result_mode == 1),
            self.active.eq(exponential.taken),
            self.row_begin.eq(normalize.row_begin),
        ]
        self._unpack(m, maximum)
        self._join_maximum(m, maximum, exponential)
        self._join_exponential(m, exponential, normalize)
        self._pack(m, normalize)
        return m

    def _unpack(self, m, maximum):
        """Feed beats to the first stage."""
        lanes, bus_bytes = self.config.lanes, self.config.bus_bytes
        sizes = [one.nbytes for one in SCORE_FORMATS]
        m.submodules.unpack = unpack = Gearbox(
            [(bus_bytes, size * lanes) for size in sizes], max_bytes=self.config.max_row * 4
        )
        m.submodules.length = length = RowLength(self.config.max_row)
        m.d.comb += [
            length.start.eq(self.start),
            length.extent.eq(self.extent),
            length.step.eq(unpack.row_end),
            unpack.mode.eq(self.score_mode),
            unpack.i.payload.eq(self.i.payload),
            unpack.i.valid.eq(self.i.valid),
            self.i.ready.eq(unpack.i.ready),
            maximum.i.valid.eq(unpack.o.valid),
            unpack.o.ready.eq(maximum.i.ready),
        ]
        with m.Switch(self.score_mode):
            for mode, size in enumerate(sizes):
                with m.Case(mode):
                    m.d.comb += unpack.last_byte.eq(_last_byte(length.last, size))
                    for lane in range(lanes):
                        score = unpack.o.payload.data.word_select(lane, 8 * size)
                        m.d.comb += maximum.i.payload[lane].eq(score.as_signed())

    def _join_maximum(self, m, maximum, exponential):
        words = self.config.max_row // self.config.lanes
        overlap = maximum.latency + 2 * FIFO_LATENCY
        m.submodules.scores = scores = PipelineFifo(
            data.ArrayLayout(SCORE, self.config.lanes), depth=words + overlap, latency=0
        )
        m.submodules.maxima = maxima = PipelineFifo(
            SCORE, depth=ROWS_WAITING, latency=maximum.latency
        )
        wiring.connect(m, scores.o, exponential.i)
        wiring.connect(m, maxima.o, exponential.maximum)
        m.d.comb += [
            maximum.room.eq(scores.room & maxima.room),
            scores.valid.eq(maximum.taken),
            scores.payload.eq(maximum.i.payload),
            maxima.valid.eq(maximum.valid),
            maxima.payload.eq(maximum.maximum),
        ]

    def _join_exponential(self, m, exponential, normalize):
        words = self.config.max_row // self.config.lanes
        overlap = exponential.row_latency + 2 * FIFO_LATENCY
        m.submodules.exponentials = exponentials = PipelineFifo(
            data.ArrayLayout(EXPONENTIAL, self.config.lanes),
            depth=words + overlap,
            latency=exponential.word_latency,
        )
        m.submodules.reciprocals = reciprocals = PipelineFifo(
            RECIPROCAL, depth=ROWS_WAITING, latency=exponential.row_latency
        )
        wiring.connect(m, exponentials.o, normalize.i)
        wiring.connect(m, reciprocals.o, normalize.row)
        m.d.comb += [
            exponential.room.eq(exponentials.room & reciprocals.room),
            exponentials.valid.eq(exponential.word_valid),
            exponentials.payload.eq(exponential.word),
            reciprocals.valid.eq(exponential.row_valid),
            reciprocals.payload.eq(exponential.row),
        ]

    def _pack(self, m, normalize):
        """Make beats of the results."""
        lanes, bus_bytes = self.config.lanes, self.config.bus_bytes
        sizes = [one.nbytes for one in RESULT_FORMATS]
        m.submodules.results = results = PipelineFifo(
            data.ArrayLayout(numerics.RESULT_FRACTION_16, lanes),
            depth=RESULTS_WAITING,
            latency=normalize.latency,
        )
        m.submodules.pack = pack = Gearbox(
            [(size * lanes, bus_bytes) for size in sizes], max_bytes=self.config.max_row * 2
        )
        wiring.connect(m, pack.o, wiring.flipped(self.o))
        m.d.comb += [
            normalize.room.eq(results.room),
            results.valid.eq(normalize.valid),
            results.payload.eq(normalize.word),
            pack.mode.eq(self.result_mode),
            pack.i.valid.eq(results.o.valid),
            results.o.ready.eq(pack.i.ready),
        ]
        with m.Switch(self.result_mode):
            for mode, size in enumerate(sizes):
                word = Cat(one[: 8 * size] for one in results.o.payload)
                with m.Case(mode):
                    m.d.comb += [
                        pack.last_byte.eq(_last_byte(self.extent.limit, size)),
                        pack.i.payload.eq(word),
                    ]


def _last_byte(last_element, size):
    return (last_element << exact_log2(size)) | (size - 1)
