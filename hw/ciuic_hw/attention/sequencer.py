"""Which row of queries or of probabilities meets which tile, every cycle."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import count
from ..gemm.compute import target_layout
from ..gemm.job import scratchpad_words
from ..streams import delay
from .job import PhaseWalk, attention_layout

__all__ = ["AttentionSequencer", "value_target_layout"]


def value_target_layout(config: OverlayConfig) -> data.StructLayout:
    """Return where a row of values' sums goes in the value accumulators, and how."""
    return data.StructLayout(
        {
            "half": 1,
            "place": range(config.attention_rows),
            "row": range(config.accumulator_rows),
            "block": 1,  # parity of the block of keys
            "first": 1,  # of the job: overwrite, do not add
            "last": 1,  # the half is complete with this row
        }
    )


class AttentionSequencer(Component):
    """Walk rows within tiles within phases, a row a cycle, two idle cycles between phases.

    In a phase of scores the rows are queries, with all tiles along k; their sums go to a bank of
    the accumulators. In a phase of values they are the probabilities of a block of keys, with all
    blocks of columns; the sums go to the value accumulators.

    Members
    -------
    job : In(stream)
        Jobs.
    queries_full, queries_release : In(2), Out(2)
        Banks of the scratchpad.
    probabilities_full, probabilities_release : In(2), Out(2)
        Banks of probabilities.
    loaded_next, swap : In(1), Out(1)
        A tile is there in the next cycle; it is needed now.
    free, take : In(2), Out(2)
        Banks of the accumulators.
    issue, values : Out(1)
        A row goes to the array in this cycle; it is one of probabilities.
    bank, word : Out
        Where a query lies in the scratchpad; ``bank`` is that of probabilities, too.
    target : Out(target_layout)
        Where the sums of scores go.
    value_target : Out(value_target_layout)
        Where the sums of values go.
    busy : Out(2 * 32)
        Rows issued for the jobs of even and of odd number.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "queries_full": In(2),
                "queries_release": Out(2),
                "probabilities_full": In(2),
                "probabilities_release": Out(2),
                "loaded_next": In(1),
                "swap": Out(1),
                "free": In(2),
                "take": Out(2),
                "issue": Out(1),
                "values": Out(1),
                "bank": Out(1),
                "word": Out(range(scratchpad_words(config))),
                "target": Out(target_layout(config)),
                "value_target": Out(value_target_layout(config)),
                "busy": Out(data.ArrayLayout(32, 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = PhaseWalk()
        job = Signal(attention_layout(config), reset_less=True)
        active, parity = Signal(), Signal(init=1)  # of the job that runs
        scores_bank, values_bank = Signal(), Signal()
        row = Signal(ceil_log2(config.accumulator_rows))
        tile = Signal(job.query_tiles.shape())
        tiles = Signal.like(tile, reset_less=True)
        place = Signal(range(config.attention_rows))
        first_row, last_row = Signal(init=1), Signal()
        first_tile, last_tile = Signal(init=1), Signal()
        may, there, there_next, phase_ends = Signal(), Signal(), Signal(), Signal()
        first_next = Mux(self.issue, last_row, first_row)  # the next row is the first of a tile

        # Found out ahead: nothing that a phase waits for goes away before it ends, and what is the
        # same for a phase is known when it can begin.
        self._find_last(m, last_row, row, job.m, step=self.issue, idle=~there)
        self._find_last(m, last_tile, tile, tiles, step=self.issue & last_row, idle=~there)
        m.d.sync += [
            tiles.eq(Mux(walk.values, job.value_blocks, job.query_tiles)),
            may.eq(
                Mux(
                    walk.values,
                    self.probabilities_full.bit_select(values_bank, 1),
                    self.queries_full.bit_select(parity, 1) & self.free.bit_select(scores_bank, 1),
                )
            ),
            there.eq(there_next),
            # Registers, as much looks at them.
            self.issue.eq(there_next & (~first_next | self.loaded_next)),
            self.swap.eq(there_next & first_next & self.loaded_next),
        ]
        m.d.comb += [
            there_next.eq(may & active & walk.ready & ~phase_ends),
            phase_ends.eq(self.issue & last_row & last_tile),
            self.values.eq(walk.values),
            self.bank.eq(Mux(walk.values, values_bank, parity)),
            self.target.bank.eq(scores_bank),
            self.target.row.eq(row),
            self.target.first.eq(first_tile),
            self.target.last.eq(last_row & last_tile),
            self.value_target.half.eq(parity),
            self.value_target.place.eq(place),
            self.value_target.row.eq(row),
            self.value_target.block.eq(values_bank),
            self.value_target.first.eq(walk.first),
            self.value_target.last.eq(last_row & last_tile & walk.last),
            walk.step.eq(phase_ends),
            # A cycle after the job was taken, as it has many registers to reach.
            walk.start.eq(delay(m, self.job.valid, 1)),
            walk.key_blocks.eq(self.job.p.key_blocks),
            self.job.ready.eq(~active),
        ]
        with m.If(self.issue):
            m.d.sync += [
                row.eq(row + 1),
                first_row.eq(0),
                self.word.eq(self.word + job.query_tiles),
                place.eq(place + 1),
            ]
            with m.If(last_row):
                m.d.sync += [
                    row.eq(0),
                    self.word.eq(tile + 1),
                    first_row.eq(1),
                    tile.eq(tile + 1),
                    first_tile.eq(0),
                ]
        with m.If(~there):  # between phases
            m.d.sync += [tile.eq(0), first_tile.eq(1), place.eq(0), self.word.eq(0)]
        with m.If(phase_ends):
            with m.If(walk.values):
                m.d.sync += [values_bank.eq(~values_bank), active.eq(~walk.last)]
            with m.Else():
                m.d.sync += scores_bank.eq(~scores_bank)
        # Strobes, two cycles late, when the next phase has other banks already.
        ended, was_values = delay(m, phase_ends, 1), delay(m, walk.values, 1)
        was_last_scores = delay(m, walk.last_scores, 1)
        m.d.sync += [
            self.take.eq((ended & ~was_values) << ~scores_bank),
            self.probabilities_release.eq((ended & was_values) << ~values_bank),
            self.queries_release.eq((ended & was_last_scores) << parity),
        ]
        with m.If(walk.start):
            m.d.sync += [job.eq(self.job.p), active.eq(1), parity.eq(~parity)]
        started = delay(m, walk.start, 1)
        for index in range(2):
            step = delay(m, self.issue & (parity == index), 1)
            clear = delay(m, started & (parity == index), 1)
            m.d.comb += self.busy[index].eq(count(m, step, clear, 32, name=f"busy_{index}"))
        return m

    @staticmethod
    def _find_last(m, last, index, count, *, step, idle):
        """Keep a flag that says whether an index is the last of a number, known a step ahead."""
        single = count == 1
        before = Signal(count.shape(), reset_less=True)
        m.d.sync += before.eq(count - 2)
        with m.If(step):
            m.d.sync += last.eq(Mux(last, single, index == before))
        with m.Elif(idle):
            m.d.sync += last.eq(single)
