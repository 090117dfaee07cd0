"""The three stages of the softmax engine and the FIFOs that let consecutive rows overlap."""

from amaranth.hdl import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from ciuic.abi import Format, numerics

from .exponential import ExponentialStage
from .gearbox import Gearbox
from .layouts import EXPONENTIAL, RECIPROCAL, SCORE, extent_layout
from .maximum import MaximumStage
from .normalize import NormalizeStage
from .pipeline import PipelineFifo
from .rows import RowLength

__all__ = ["SoftmaxDatapath"]

SCORE_FORMATS = (Format.INT32, Format.INT16, Format.INT8)
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)

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
        Beats of results: all of each row; ``final`` at the last beat of a row.
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
            normalize.narrow.eq(RESULT_FORMATS_NARROW[self.result_mode]),
            self.active.eq(exponential.taken),
            self.row_begin.eq(normalize.row_begin),
        ]
        return m
