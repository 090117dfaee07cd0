"""The attention engine: O = softmax(Q K^T) V of one head, on the array and lanes of the others.

    memory ─► QueryLoader ─► scratchpad ─┐                      ┌─► accumulators ─► ScoreStage
                                         ├─► PeArray ─► sums ───┤                       │
    memory ─► TileLoader ─► TileFeeder ──┤                      └─► ValueAccumulators   │
                                         │                              │               │
                     probabilities ──────┘                       AttentionOutput ─► memory
                           ▲────────────────────────────────────────────────────────────┘

Keys go through the array in blocks of ``cols``: the scores of a block, then, a phase later, its
probabilities times its values. Units meet only at banks that are full or free, so loading,
computing and writing overlap, within a job and between neighbouring jobs.
"""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, Out, connect, flipped

from ciuic.abi import OverlayConfig

from ..axi.ports import EngineSignature, ReadPort
from ..gemm.activations import SCRATCHPAD_LATENCY
from ..streams import StreamRegister, delay
from .job import AttentionPlanner, attention_layout
from .output import AttentionOutput
from .ports import ArrayPort, LanesPort
from .queries import QueryLoader, RowLoader
from .scores import ScoreStage
from .sequencer import AttentionSequencer
from .tiles import TileFeeder, TileLoader
from .values import ValueAccumulators

__all__ = ["AttentionEngine"]

UNITS = ("queries", "rows", "tiles", "sequencer", "scores", "output")
AT_A_TIME = 3  # jobs: one is written, one computed, one loaded


class AttentionEngine(Component):
    """Run ATTENTION descriptors.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    descriptor, done, active, read, write
        See `EngineSignature`; ``read`` carries queries.
    read_weights_<port> : Out(ReadPort)
        Keys and values, one stripe a port.
    read_parameters : Out(ReadPort)
        Scales and lengths of queries.
    owner : Out(1)
        The engine has a job, so the array, the lanes and the read ports are its own.
    array : Out(ArrayPort)
    lanes : Out(LanesPort)
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                **dict(EngineSignature(config).members),
                **{f"read_weights_{port}": Out(ReadPort(config)) for port in range(config.ports)},
                "read_parameters": Out(ReadPort(config)),
                "owner": Out(1),
                "array": Out(ArrayPort(config)),
                "lanes": Out(LanesPort(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.planner = planner = AttentionPlanner(config, UNITS)
        m.submodules.queries = queries = QueryLoader(config)
        m.submodules.rows = rows = RowLoader(config)
        m.submodules.tiles = tiles = TileLoader(config)
        m.submodules.feeder = feeder = TileFeeder(config)
        m.submodules.sequencer = sequencer = AttentionSequencer(config)
        m.submodules.scores = scores = ScoreStage(config)
        m.submodules.values = values = ValueAccumulators(config)
        m.submodules.output = output = AttentionOutput(config)

        connect(m, flipped(self.descriptor), planner.descriptor)
        # Results of a job may still be written when the one after the next is loaded.
        m.submodules.computed = computed = StreamRegister(attention_layout(config))
        connect(m, computed.o, output.job)
        units = (queries.job, rows.job, tiles.job, sequencer.job, scores.job, computed.i)
        m.d.comb += tiles.queries_requested.eq(queries.requested)
        for name, jobs in zip(UNITS, units, strict=True):
            connect(m, getattr(planner, name), jobs)
        connect(m, queries.read, flipped(self.read))
        connect(m, rows.read, flipped(self.read_parameters))
        connect(m, output.write, flipped(self.write))
        connect(m, output.done, flipped(self.done))
        for port in range(config.ports):
            read = getattr(self, f"read_weights_{port}")
            connect(m, getattr(tiles, f"request_{port}"), flipped(read.request))
            connect(m, flipped(read.data), getattr(feeder, f"data_{port}"))

        self._array(m, queries, feeder, sequencer, scores, values)
        self._softmax(m, rows, sequencer, scores, values, output)
        m.d.comb += [
            output.read_error.eq(queries.error | rows.error | feeder.error),
            output.busy.eq(sequencer.busy),
            self.active.eq(sequencer.issue),
        ]

        jobs = Signal(range(AT_A_TIME + 1))
        begins = self.descriptor.valid & self.descriptor.ready
        m.d.sync += [
            jobs.eq(jobs + begins - (self.done.valid & self.done.ready)),
            self.owner.eq(jobs != 0),  # many look at it; the first use is some cycles away
        ]
        return m

    def _array(self, m, queries, feeder, sequencer, scores, values):
        """Drive the array and its memories."""
        array = self.array
        for name in ("write_en", "write_bank", "write_word", "write_lane", "write_data"):
            m.d.comb += getattr(array, name).eq(getattr(queries, name))
        for name in ("load", "place", "beat"):
            m.d.comb += getattr(array, name).eq(getattr(feeder, name))
        m.d.comb += [
            array.owned.eq(self.owner),
            array.swap.eq(sequencer.swap),
            array.issue.eq(sequencer.issue),
            array.read_bank.eq(sequencer.bank),
            array.read_word.eq(sequencer.word),
            array.given.eq(delay(m, sequencer.values, SCRATCHPAD_LATENCY)),
            array.activations.eq(scores.activations),
            array.add.eq(sequencer.issue & ~sequencer.values),
            array.target.eq(sequencer.target),
            array.take.eq(sequencer.take),
            array.drained.eq(scores.drained),
            array.fetch.eq(scores.fetch),
            array.fetch_bank.eq(scores.fetch_bank),
            array.fetch_row.eq(scores.fetch_row),
            scores.full.eq(array.full),
            scores.fetched.eq(array.fetched),
            scores.read_bank.eq(sequencer.bank),
            scores.read_row.eq(sequencer.value_target.row),
            values.issue.eq(sequencer.issue & sequencer.values),
            values.target.eq(sequencer.value_target),
            values.sums.eq(array.sums),
            feeder.swap.eq(sequencer.swap),
            sequencer.loaded_next.eq(feeder.loaded_next),
            sequencer.free.eq(array.free),
            sequencer.queries_full.eq(queries.full),
            queries.release.eq(sequencer.queries_release),
        ]

    def _softmax(self, m, rows, sequencer, scores, values, output):
        """Join what is kept of rows, and drive the lanes."""
        lanes = self.lanes
        m.d.comb += [
            lanes.owned.eq(self.owner),
            *(
                Value.cast(getattr(lanes, name)).eq(getattr(scores, name))
                for name in ("magnitude", "multiplier", "shift", "position")
            ),
            Value.cast(scores.exponent).eq(lanes.exponent),
            Value.cast(scores.mantissa).eq(lanes.mantissa),
            scores.records_full.eq(rows.full),
            rows.release.eq(scores.records_release),
            rows.bank.eq(scores.record_bank),
            rows.row.eq(scores.record_row),
            scores.record.eq(rows.record),
            sequencer.probabilities_full.eq(scores.probabilities_full),
            scores.probabilities_release.eq(sequencer.probabilities_release),
            scores.half_free.eq(output.half_free),
            output.half_take.eq(scores.half_take),
            scores.shifts_bank.eq(values.shifts_bank),
            scores.shifts_row.eq(values.shifts_row),
            values.shifts.eq(scores.shifts),
            scores.sum_half.eq(output.half),
            scores.sum_row.eq(output.row),
            output.sum.eq(scores.sum),
            output.complete.eq(values.complete),
            values.half.eq(output.half),
            values.place.eq(output.place),
            output.fetch_next.eq(values.fetch_next),
            output.fetched.eq(values.fetched),
        ]
