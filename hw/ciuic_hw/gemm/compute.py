"""The loop nest of a GEMM: which row of activations meets which tile of weights, every cycle."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from .job import job_layout, scratchpad_words, word_bytes

__all__ = ["ComputeSequencer", "target_layout"]


def target_layout(config: OverlayConfig) -> data.StructLayout:
    """Return where a row of sums goes: bank and row of the accumulators, and how."""
    return data.StructLayout(
        {
            "bank": 1,
            "row": ceil_log2(config.accumulator_rows),
            "first": 1,  # overwrite, do not add
            "last": 1,  # the bank is complete with this row
        }
    )


class ComputeSequencer(Component):
    """Walk rows within tiles along K within blocks of N within tiles of M, a row a cycle.

    Nothing waits between two tiles: weights of the next are swapped in with its first row.

    Members
    -------
    job : In(stream)
        Jobs.
    bank_full, bank_release : In(2), Out(2)
        Activation banks.
    read_en, read_bank, read_word, read_block
        To the activation scratchpad.
    loaded, swap : In(1), Out(1)
        Weights of the next tile.
    accumulator_free : In(2)
        Accumulator banks that may be written.
    accumulator_take : Out(2)
        Strobes: the bank is complete once the rows that are under way have arrived.
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
                "read_en": Out(1),
                "read_bank": Out(1),
                "read_word": Out(range(self.words)),
                "read_block": Out(ceil_log2(self.blocks)),
                "loaded": In(1),
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
        job = Signal(job_layout(config))
        active = Signal()
        parity = Signal(init=1)  # of the job that runs

        rows_left = Signal(job.m.shape())
        tile_rows = Signal(range(config.accumulator_rows + 1))
        n_left = Signal(job.n_blocks.shape())
        k_left = Signal(job.k_blocks.shape())
        row = Signal(range(config.accumulator_rows))
        first_k = Signal()
        word, block = Signal(range(self.words)), Signal(ceil_log2(self.blocks))
        row_word = Signal(range(self.words + 1))
        bank, accumulator = Signal(), Signal()
        m.d.comb += tile_rows.eq(Mux(rows_left < job.tile_m, rows_left, job.tile_m))

        first_row, last_row, last_k, last_n, last_m = (Signal() for _ in range(5))
        word_end, slice_end = Signal(), Signal()
        m.d.comb += [
            first_row.eq(row == 0),
            last_row.eq(row + 1 == tile_rows),
            last_k.eq(k_left == 1),
            last_n.eq(n_left == 1),
            last_m.eq(rows_left == tile_rows),
            word_end.eq(block == self.blocks - 1),
            slice_end.eq(job.sliced & word_end & (word == self.words - 1)),
            self.issue.eq(
                active
                & (~first_row | self.loaded)
                & self.bank_full.bit_select(bank, 1)
                & self.accumulator_free.bit_select(accumulator, 1)
            ),
            self.swap.eq(self.issue & first_row),
            self.read_en.eq(self.issue),
            self.read_bank.eq(bank),
            self.read_word.eq(word + row_word),
            self.read_block.eq(block),
            self.target.bank.eq(accumulator),
            self.target.row.eq(row),
            self.target.first.eq(first_k),
            self.target.last.eq(last_k & last_row),
        ]

        def start(new):
            """Prepare the loops for a job, or end them."""
            return [
                job.eq(new),
                active.eq(self.job.valid),
                rows_left.eq(new.m),
                n_left.eq(new.n_blocks),
                k_left.eq(new.k_blocks),
                first_k.eq(1),
                row.eq(0),
                row_word.eq(0),
                word.eq(0),
                block.eq(0),
            ]

        def release():
            """Give the activation bank back."""
            return [self.bank_release.bit_select(bank, 1).eq(1)]

        with m.If(self.issue):
            m.d.sync += [
                row.eq(row + 1),
                row_word.eq(row_word + job.row_words),
                self.busy[parity].eq(self.busy[parity] + 1),
            ]
            with m.If(last_row):  # the next tile along K
                m.d.sync += [row.eq(0), row_word.eq(0), k_left.eq(k_left - 1), first_k.eq(0)]
                m.d.sync += [block.eq(block + 1), word.eq(word + word_end)]
                with m.If(word_end):
                    m.d.sync += block.eq(0)
                with m.If(slice_end):
                    m.d.comb += release()
                    m.d.sync += [bank.eq(~bank), word.eq(0)]
                with m.If(last_k):  # the next block of columns
                    m.d.comb += self.accumulator_take.bit_select(accumulator, 1).eq(1)
                    m.d.sync += [
                        accumulator.eq(~accumulator),
                        k_left.eq(job.k_blocks),
                        n_left.eq(n_left - 1),
                        first_k.eq(1),
                        word.eq(0),
                        block.eq(0),
                    ]
                    with m.If(job.sliced | last_n):
                        m.d.comb += release()
                        m.d.sync += bank.eq(~bank)
                    with m.If(last_n):  # the next tile of rows
                        m.d.sync += [n_left.eq(job.n_blocks), rows_left.eq(rows_left - tile_rows)]

        finished = Signal()
        m.d.comb += [
            finished.eq(self.issue & last_row & last_k & last_n & last_m),
            self.job.ready.eq(~active | finished),
        ]
        with m.If(self.job.ready):
            m.d.sync += start(self.job.p)
            with m.If(self.job.valid):
                m.d.sync += [parity.eq(~parity), self.busy[~parity].eq(0)]
        return m
