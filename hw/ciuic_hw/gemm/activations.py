"""Activations: two banks of scratchpad, one filled from memory while the other is read."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import less
from ..axi.ports import ReadPort
from ..streams import delay
from .job import job_layout, scratchpad_words, word_bytes

__all__ = ["SCRATCHPAD_LATENCY", "ActivationLoader", "ActivationScratchpad", "progress_range"]

SCRATCHPAD_LATENCY = 3  # a register, block RAM and its output register
SLAB_WORDS = 16  # of every row at a time: long enough for bursts, short enough to start early


def progress_range(config: OverlayConfig) -> range:
    """Return the values of a bank's progress in words of a row."""
    return range(scratchpad_words(config) + SLAB_WORDS + 1)


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
        `SCRATCHPAD_LATENCY` cycles after ``read_en``.
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
        word = delay(m, read.data, 1, reset_less=True)
        block = delay(m, self.read_block, SCRATCHPAD_LATENCY)
        data = delay(m, self.write_data, 1, reset_less=True)
        m.d.sync += [
            write.addr.eq(Cat(self.write_word, self.write_bank)),
            write.en.eq(self.write_en << self.write_lane),
            read.addr.eq(Cat(self.read_word, self.read_bank)),
            read.en.eq(self.read_en),
        ]
        m.d.comb += [
            write.data.eq(data.replicate(self.lanes)),
            self.read_data.eq(word.word_select(block, self.config.rows * 8)),
        ]
        return m


class ActivationLoader(Component):
    """Fill scratchpad banks ahead of their use.

    Rows of a tile are loaded once and used for all blocks of columns. They come in slabs along K,
    `SLAB_WORDS` of every row, so that the array can start on the first slab while the next is
    loaded. A row longer than a bank is loaded in slices, anew for every block of columns.

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
    progress_0, progress_1 : Out
        Words of every row that a bank holds, while it is not full.
    release : In(2)
        Strobes: the bank is no longer needed.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.words = scratchpad_words(config)
        self.lanes = word_bytes(config) // config.bus_bytes
        progress = progress_range(config)
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
                "progress_0": Out(progress),
                "progress_1": Out(progress),
                "release": In(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        # Each bank: whether it is spoken for, and what is being loaded into it.
        self._taken = Signal(2)
        self._rows = Array(
            [Signal(range(config.accumulator_rows + 1), name=f"rows_{b}") for b in (0, 1)]
        )
        self._stride = Array([Signal(range(self.words + 1), name=f"stride_{b}") for b in (0, 1)])
        m.d.sync += [
            self.full.eq(self.full & ~self.release),
            self._taken.eq(self._taken & ~self.release),
        ]
        self._request(m)
        self._receive(m)
        return m

    def _request(self, m):
        """Ask for rows of free banks."""
        config = self.config
        slab_bytes = SLAB_WORDS * word_bytes(config)
        slice_bytes = self.words * word_bytes(config)
        request = self.read.request
        job = Signal(job_layout(config), reset_less=True)
        bank = Signal()
        rows_left = Signal(job.m.shape(), reset_less=True)
        row = Signal(range(config.accumulator_rows + 1))
        tile_addr = Signal(config.address_bits, reset_less=True)  # first row of the tile
        row_addr = Signal(config.address_bits, reset_less=True)
        offset = Signal(job.k.shape(), reset_less=True)  # of the slab, or slice, in its row
        part = range(max(slab_bytes, slice_bytes) + 1)
        part_bytes = Signal(part, reset_less=True)  # of a slab or slice
        blocks_left = Signal(job.n_blocks.shape(), reset_less=True)
        k_left = Signal(job.k.shape(), reset_less=True)

        # What a step needs to know is found out in the cycle before it.
        tile_rows = Signal(range(config.accumulator_rows + 1))
        next_row, end = (Signal(config.address_bits, reset_less=True) for _ in range(2))
        last_row, last_part, last_tile, last_block = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            tile_rows.eq(Mux(rows_left < job.tile_m, rows_left, job.tile_m)),
            last_tile.eq(rows_left <= job.tile_m),
            part_bytes.eq(Mux(job.sliced, slice_bytes, slab_bytes)),
            last_row.eq(row + 1 == tile_rows),
            last_part.eq(k_left <= part_bytes),
            last_block.eq(blocks_left == 1),
            next_row.eq(row_addr + job.a_stride),
            end.eq(next_row),  # of the tile, in the cycle behind its last row
            request.p.addr.eq(row_addr + offset),
            request.p.nbytes.eq(Mux(k_left < part_bytes, k_left, part_bytes)),
        ]

        def take(rows, stride):
            """Speak for the bank."""
            return [
                self._taken.bit_select(bank, 1).eq(1),
                self._rows[bank].eq(rows),
                self._stride[bank].eq(stride),
            ]

        block_ends = Signal()  # blocks are counted a cycle later
        with m.If(delay(m, block_ends, 1)):
            m.d.sync += blocks_left.eq(blocks_left - 1)
        with m.FSM(name="request"):
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [
                    job.eq(self.job.p),
                    rows_left.eq(self.job.p.m),
                    tile_addr.eq(self.job.p.a_addr),
                ]
                with m.If(self.job.valid):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += [
                    row.eq(0),
                    row_addr.eq(tile_addr),
                    offset.eq(0),
                    blocks_left.eq(job.n_blocks),
                    k_left.eq(job.k),
                ]
                with m.If(job.sliced | ~self._taken.bit_select(bank, 1)):
                    m.next = "TAKE"
            with m.State("TAKE"):
                with m.If(~job.sliced):
                    m.d.sync += take(tile_rows, job.row_words)
                m.next = "SETTLE"
            with m.State("SETTLE"):
                m.next = "ASK"
            with m.State("ASK"):
                with m.If(job.sliced):  # a bank for each slice
                    m.d.comb += request.valid.eq(~self._taken.bit_select(bank, 1))
                    with m.If(request.valid & request.ready):
                        m.next = "SLICE"
                with m.Else():  # the same words of every row
                    m.d.comb += request.valid.eq(1)
                    with m.If(request.ready):
                        m.next = "SLAB"
            with m.State("SLAB"):
                m.d.sync += [row_addr.eq(next_row), row.eq(row + 1)]
                m.next = "SETTLE"
                with m.If(last_row):
                    m.d.sync += [
                        row.eq(0),
                        row_addr.eq(tile_addr),
                        offset.eq(offset + slab_bytes),
                        k_left.eq(k_left - slab_bytes),
                    ]
                    with m.If(last_part):
                        m.next = "TURN"
            with m.State("SLICE"):  # a row that is longer than a bank
                m.d.sync += [
                    *take(1, 1),
                    bank.eq(~bank),
                    offset.eq(offset + slice_bytes),
                    k_left.eq(k_left - slice_bytes),
                ]
                m.next = "SETTLE"
                with m.If(last_part):
                    m.d.comb += block_ends.eq(1)
                    m.d.sync += [offset.eq(0), k_left.eq(job.k)]
                    with m.If(last_block):
                        m.next = "TURN"
            with m.State("TURN"):  # to the next tile
                m.d.sync += [
                    tile_addr.eq(end),
                    bank.eq(bank ^ ~job.sliced),
                    rows_left.eq(rows_left - job.tile_m),
                ]
                m.next = "TILE"
                with m.If(last_tile):
                    m.next = "IDLE"

    def _receive(self, m):
        """Write beats to the scratchpad, slab after slab."""
        beat = self.read.data
        progress = Array([self.progress_0, self.progress_1])
        bank = Signal()
        slab_word = Signal.like(self.progress_0)  # first word of the slab
        next_slab = Signal.like(slab_word)
        row_word = Signal(range(self.words + 1))  # first word of the row
        word = Signal(range(self.words))
        lane = Signal(ceil_log2(self.lanes))
        # Of the bank: rows and words of a row.
        rows, stride = Signal.like(self._rows[0]), Signal.like(row_word)
        behind = Signal.like(rows)  # rows of the slab behind this one
        first_row, last_row = Signal(init=1), Signal()
        last_slab = Signal()
        arrives = Signal()
        settled = Signal(3)  # what is known of the slab holds, once the last bit is set
        slab_ended = Signal()
        m.d.comb += [
            beat.ready.eq(settled[-1]),
            arrives.eq(beat.valid & settled[-1]),
            self.error.eq(arrives & beat.p.error),
            self.write_data.eq(delay(m, beat.p.data, 1, reset_less=True)),
        ]
        m.d.sync += [
            self.write_en.eq(arrives),
            self.write_bank.eq(bank),
            self.write_word.eq(row_word + slab_word + word),
            self.write_lane.eq(lane),
            settled.eq((settled << 1) | 1),
            slab_ended.eq(arrives & beat.p.last & last_row),
            next_slab.eq(slab_word + SLAB_WORDS),
            rows.eq(self._rows[bank]),
            stride.eq(self._stride[bank]),
            last_slab.eq(~less(next_slab, stride)),
        ]
        with m.If(first_row):
            m.d.sync += [behind.eq(rows - 1), last_row.eq(rows == 1)]
        for index, strobe in enumerate(self.release):
            with m.If(strobe):
                m.d.sync += progress[index].eq(0)
        with m.If(arrives):
            last_lane = (lane == self.lanes - 1) if self.lanes > 1 else 1
            m.d.sync += [lane.eq(lane + 1), word.eq(word + last_lane)]
            with m.If(beat.p.last):
                m.d.sync += [
                    lane.eq(0),
                    word.eq(0),
                    behind.eq(behind - 1),
                    first_row.eq(0),
                    last_row.eq(behind == 1),
                    row_word.eq(row_word + stride),
                ]
                with m.If(last_row):
                    m.d.sync += settled.eq(0)
        with m.If(slab_ended):
            m.d.sync += [
                first_row.eq(1),
                row_word.eq(0),
                slab_word.eq(next_slab),
                progress[bank].eq(next_slab),
            ]
            with m.If(last_slab):
                m.d.sync += [
                    slab_word.eq(0),
                    bank.eq(~bank),
                    self.full.bit_select(bank, 1).eq(1),
                ]
