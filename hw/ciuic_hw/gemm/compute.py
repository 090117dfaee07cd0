"""The loop nest of a GEMM: which row of activations meets which tile of weights, every cycle."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import count, less
from ..streams import delay
from .activations import progress_range
from .job import job_layout, scratchpad_words, word_bytes
from .walk import TileWalk

__all__ = ["ComputeSequencer", "target_layout"]


def target_layout(config: OverlayConfig) -> data.StructLayout:
    """Return where a row of sums goes: bank and row of the accumulators, and how."""
    return data.StructLayout(
        {
            "bank": 1,
            "row": ceil_log2(config.accumulator_rows),
            "first": 1,  # overwrite, do not add
            "last": 1,  # the bank is complete with this row
            "w4": 1,  # scale the sums
            "slot": 1,  # which scales
        }
    )


class ComputeSequencer(Component):
    """Walk rows within tiles along K within blocks of N within tiles of M, a row a cycle.

    Nothing waits between two tiles along K: weights of the next are swapped in with its first row.
    Between two blocks, or slices, two cycles pass in which it is found out what comes next.

    Members
    -------
    job : In(stream)
        Jobs.
    bank_full, bank_release : In(2), Out(2)
        Activation banks; strobes, two cycles late, that one is no longer needed.
    progress_0, progress_1 : In
        Words of every row that are there in a bank that is not full.
    read_en, read_bank, read_word, read_block
        To the activation scratchpad.
    loaded_next, swap : In(1), Out(1)
        Weights of the next tile: they are there in the next cycle; they are needed now.
    accumulator_free : In(2)
        Accumulator banks that may be written.
    accumulator_take : Out(2)
        Strobes, a cycle late: the bank is complete once the rows that are under way have arrived.
    issue : Out(1)
        A row goes to the array in this cycle.
    target : Out(target_layout)
        Where its sums go.
    busy : Out(2 * 32)
        Rows issued for the jobs of even and of odd number.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.words = scratchpad_words(config)
        self.blocks = word_bytes(config) // config.rows
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "bank_full": In(2),
                "bank_release": Out(2),
                "progress_0": In(progress_range(config)),
                "progress_1": In(progress_range(config)),
                "read_en": Out(1),
                "read_bank": Out(1),
                "read_word": Out(range(self.words)),
                "read_block": Out(ceil_log2(self.blocks)),
                "loaded_next": In(1),
                "swap": Out(1),
                "accumulator_free": In(2),
                "accumulator_take": Out(2),
                "issue": Out(1),
                "target": Out(target_layout(config)),
                "busy": Out(data.ArrayLayout(32, 2)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=True)
        job = walk.current
        # Rows are of the job; there is one. The former has to be where rows are decided on.
        active, busy = Signal(), Signal()
        finished, bank_ends = Signal(), Signal()
        parity = Signal(init=1)  # of the job that runs
        row = Signal(range(config.accumulator_rows))
        behind = Signal(range(config.accumulator_rows))  # rows of the tile behind this one
        row_word = Signal(range(self.words + 1))
        word, block = Signal(range(self.words)), Signal(ceil_log2(self.blocks))
        last_word = Signal()  # of a bank
        bank, accumulator, slot = Signal(), Signal(), Signal()

        first_row, last_row = Signal(init=1), Signal()
        word_end, slice_end = Signal(), Signal()
        ends, slice_ended, block_ended = Signal(), Signal(), Signal()  # with this row; the last one
        # Whether the words of two steps ahead are there: known two cycles late, this one's are.
        reach = Signal(2)
        m.d.sync += [
            reach[index].eq(less(word + 2, progress))
            for index, progress in enumerate((self.progress_0, self.progress_1))
        ]
        # All that a row waits for but weights. Within a block it stays so.
        room = Signal()
        first_next = Mux(self.issue, last_row, first_row)  # the next row is the first of a tile
        m.d.comb += room.eq(
            active
            & self.accumulator_free.bit_select(accumulator, 1)
            & (self.bank_full | reach).bit_select(bank, 1)
        )
        coming = room & ~ends & ~slice_ended & ~block_ended
        m.d.sync += [
            # Registers, as much looks at them.
            self.issue.eq(coming & (~first_next | self.loaded_next)),
            self.swap.eq(coming & first_next & self.loaded_next),
            slice_ended.eq(walk.step & slice_end),
            block_ended.eq(walk.step & walk.last_k),
        ]
        m.d.comb += [
            word_end.eq(block == self.blocks - 1),
            slice_end.eq(job.sliced & word_end & last_word),
            ends.eq(walk.step & (walk.last_k | slice_end)),
            self.read_en.eq(self.issue),
            self.read_bank.eq(bank),
            self.read_word.eq(word + row_word),
            self.read_block.eq(block),
            self.target.bank.eq(accumulator),
            self.target.row.eq(row),
            self.target.first.eq(walk.first_k),
            self.target.last.eq(walk.last_k & last_row),
            self.target.w4.eq(job.w4),
            self.target.slot.eq(slot ^ ~first_row),
            walk.step.eq(self.issue & last_row),
            finished.eq(block_ended & walk.last_n & walk.last_m),
            self.accumulator_take.eq(block_ended << accumulator),
            bank_ends.eq(slice_ended | (block_ended & (job.sliced | walk.last_n))),
            walk.job.eq(self.job.p),
            walk.start.eq(self.job.valid),
            self.job.ready.eq(~busy),
        ]
        with m.If(self.swap):
            m.d.sync += slot.eq(~slot)
        with m.If(self.issue):
            m.d.sync += [
                row.eq(row + 1),
                behind.eq(behind - 1),
                last_row.eq(behind == 1),
                first_row.eq(0),
                row_word.eq(row_word + job.row_words),
            ]
        for index in range(2):
            step = delay(m, self.issue & (parity == index), 1)
            clear = delay(m, walk.start & (parity != index), 1)
            m.d.comb += self.busy[index].eq(count(m, step, clear, 32, name=f"busy_{index}"))
        with m.If(walk.step):  # the next tile along K
            m.d.sync += [
                row.eq(0),
                first_row.eq(1),
                row_word.eq(0),
                block.eq(block + 1),
                word.eq(word + word_end),
                last_word.eq(Mux(word_end, word == self.words - 2, last_word)),
            ]
            with m.If(word_end):
                m.d.sync += block.eq(0)
        with m.If(slice_ended | block_ended):
            m.d.sync += [word.eq(0), last_word.eq(0), block.eq(0)]
        m.d.sync += [
            accumulator.eq(accumulator ^ block_ended),
            bank.eq(bank ^ bank_ends),
            self.bank_release.eq(bank_ends << bank),
        ]
        # Also while the first row waits, as the rows of a tile of M become known a cycle late.
        with m.If(first_next):
            m.d.sync += [behind.eq(walk.rows - 1), last_row.eq(walk.rows == 1)]
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(delay(m, walk.start, 1)):
            m.d.sync += active.eq(1)
        with m.If(delay(m, finished, 1)):
            m.d.sync += busy.eq(0)
        with m.If(walk.start):
            m.d.sync += [busy.eq(1), parity.eq(~parity)]
        return m
