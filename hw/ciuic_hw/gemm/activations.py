"""Activations: two banks of scratchpad, one filled from memory while the other is read."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from ..axi.ports import ReadPort
from .job import job_layout, scratchpad_words, word_bytes

__all__ = ["ActivationLoader", "ActivationScratchpad"]


class ActivationScratchpad(Component):
    """Two banks of activations.

    A bank holds ``tile_m`` rows, each in whole words; where a word is wider than ``rows`` bytes
    it holds several blocks of K.

    Members
    -------
    write_en, write_bank, write_word, write_lane, write_data
        Write one beat: lane of a word.
    read_en, read_bank, read_word, read_block : In
        Read block ``read_block`` of a word.
    read_data : Out(rows * 8)
        One cycle after ``read_en``.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.words = scratchpad_words(config)
        self.lanes = word_bytes(config) // config.bus_bytes
        self.blocks = word_bytes(config) // config.rows
        super().__init__(
            {
                "write_en": In(1),
                "write_bank": In(1),
                "write_word": In(range(self.words)),
                "write_lane": In(ceil_log2(self.lanes)),
                "write_data": In(config.bus_bytes * 8),
                "read_en": In(1),
                "read_bank": In(1),
                "read_word": In(range(self.words)),
                "read_block": In(ceil_log2(self.blocks)),
                "read_data": Out(config.rows * 8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = memory = Memory(
            shape=word_bytes(self.config) * 8, depth=2 * self.words, init=[]
        )
        write = memory.write_port(granularity=self.config.bus_bytes * 8)
        read = memory.read_port()
        block = Signal(ceil_log2(self.blocks))
        m.d.comb += [
            write.addr.eq(Cat(self.write_word, self.write_bank)),
            write.data.eq(self.write_data.replicate(self.lanes)),
            write.en.eq(self.write_en << self.write_lane),
            read.addr.eq(Cat(self.read_word, self.read_bank)),
            read.en.eq(self.read_en),
            self.read_data.eq(read.data.word_select(block, self.config.rows * 8)),
        ]
        with m.If(self.read_en):
            m.d.sync += block.eq(self.read_block)
        return m


class ActivationLoader(Component):
    """Fill scratchpad banks ahead of their use.

    Rows of a tile are loaded once and used for all blocks of columns. A row longer than a bank is
    loaded in slices, anew for every block of columns.

    Members
    -------
    job : In(stream)
        Jobs.
    read : Out(ReadPort)
        Memory.
    write_en, write_bank, write_word, write_lane, write_data
        To the scratchpad.
    full : Out(2)
        Which banks hold a whole tile (or slice).
    release : In(2)
        Strobes: the bank is no longer needed.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.words = scratchpad_words(config)
        self.lanes = word_bytes(config) // config.bus_bytes
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "read": Out(ReadPort(config)),
                "write_en": Out(1),
                "write_bank": Out(1),
                "write_word": Out(range(self.words)),
                "write_lane": Out(ceil_log2(self.lanes)),
                "write_data": Out(config.bus_bytes * 8),
                "full": Out(2),
                "release": In(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        job = Signal(job_layout(config))
        slice_bytes = self.words * word_bytes(config)

        # Each bank: whether it is spoken for, and what is being loaded into it.
        taken = Signal(2)
        rows = Array([Signal(range(config.accumulator_rows + 1), name=f"rows_{b}") for b in (0, 1)])
        stride = Array([Signal(range(self.words + 1), name=f"stride_{b}") for b in (0, 1)])
        m.d.sync += [self.full.eq(self.full & ~self.release), taken.eq(taken & ~self.release)]

        # Requests.
        bank = Signal()
        rows_left = Signal(job.m.shape())
        row_in_tile = Signal(range(config.accumulator_rows + 1))
        tile_rows = Signal(range(config.accumulator_rows + 1))
        row_addr = Signal(config.address_bits)
        blocks_left = Signal(job.n_blocks.shape())
        k_left = Signal(job.k.shape())
        slice_addr = Signal(config.address_bits)
        request = self.read.request
        m.d.comb += tile_rows.eq(Mux(rows_left < job.tile_m, rows_left, job.tile_m))

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [
                    job.eq(self.job.p),
                    rows_left.eq(self.job.p.m),
                    row_addr.eq(self.job.p.a_addr),
                ]
                with m.If(self.job.valid):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += [
                    row_in_tile.eq(0),
                    blocks_left.eq(job.n_blocks),
                    k_left.eq(job.k),
                    slice_addr.eq(row_addr),
                ]
                with m.If(job.sliced):
                    m.next = "SLICE"
                with m.Elif(~taken.bit_select(bank, 1)):
                    m.d.sync += [
                        taken.bit_select(bank, 1).eq(1),
                        rows[bank].eq(tile_rows),
                        stride[bank].eq(job.row_words),
                    ]
                    m.next = "ROWS"
            with m.State("ROWS"):
                m.d.comb += [
                    request.valid.eq(1),
                    request.p.addr.eq(row_addr),
                    request.p.nbytes.eq(job.k),
                ]
                with m.If(request.ready):
                    m.d.sync += [
                        row_addr.eq(row_addr + job.a_stride),
                        row_in_tile.eq(row_in_tile + 1),
                    ]
                    with m.If(row_in_tile + 1 == tile_rows):
                        m.d.sync += [bank.eq(~bank), rows_left.eq(rows_left - tile_rows)]
                        m.next = "TILE"
                        with m.If(rows_left == tile_rows):
                            m.next = "IDLE"
            with m.State("SLICE"):  # a row that is longer than a bank
                with m.If(~taken.bit_select(bank, 1)):
                    m.d.comb += [
                        request.valid.eq(1),
                        request.p.addr.eq(slice_addr),
                        request.p.nbytes.eq(Mux(k_left < slice_bytes, k_left, slice_bytes)),
                    ]
                    with m.If(request.ready):
                        m.d.sync += [
                            taken.bit_select(bank, 1).eq(1),
                            rows[bank].eq(1),
                            bank.eq(~bank),
                            slice_addr.eq(slice_addr + slice_bytes),
                            k_left.eq(k_left - slice_bytes),
                        ]
                        with m.If(k_left <= slice_bytes):
                            m.d.sync += [
                                k_left.eq(job.k),
                                slice_addr.eq(row_addr),
                                blocks_left.eq(blocks_left - 1),
                            ]
                            with m.If(blocks_left == 1):
                                m.d.sync += [
                                    row_addr.eq(row_addr + job.a_stride),
                                    rows_left.eq(rows_left - 1),
                                ]
                                m.next = "TILE"
                                with m.If(rows_left == 1):
                                    m.next = "IDLE"

        # Data.
        beat = self.read.data
        fill_bank = Signal()
        row_word = Signal(range(self.words + 1))
        word = Signal(range(self.words))
        lane = Signal(ceil_log2(self.lanes))
        row = Signal(range(config.accumulator_rows + 1))
        m.d.comb += [
            beat.ready.eq(1),
            self.error.eq(beat.valid & beat.p.error),
            self.write_en.eq(beat.valid),
            self.write_bank.eq(fill_bank),
            self.write_word.eq(row_word + word),
            self.write_lane.eq(lane),
            self.write_data.eq(beat.p.data),
        ]
        with m.If(beat.valid):
            last_lane = (lane == self.lanes - 1) if self.lanes > 1 else 1
            m.d.sync += [lane.eq(lane + 1), word.eq(word + last_lane)]
            with m.If(beat.p.last):
                m.d.sync += [
                    lane.eq(0),
                    word.eq(0),
                    row.eq(row + 1),
                    row_word.eq(row_word + stride[fill_bank]),
                ]
                with m.If(row + 1 == rows[fill_bank]):
                    m.d.sync += [
                        row.eq(0),
                        row_word.eq(0),
                        fill_bank.eq(~fill_bank),
                        self.full.bit_select(fill_bank, 1).eq(1),
                    ]
        return m
