"""Queries and what is known of each of them: loaded ahead, while the job before is computed."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import ATTENTION_ROW, OverlayConfig

from ..axi.ports import ReadPort, request_layout
from ..gemm.accumulators import FETCH_LATENCY
from ..gemm.job import scratchpad_words, word_bytes
from ..layouts import record_layout
from ..streams import SkidBuffer, delay
from .job import attention_layout

__all__ = ["QueryLoader", "RowLoader"]


class QueryLoader(Component):
    """Fill the banks of the activation scratchpad with queries, a bank for each job in turn.

    Members
    -------
    job : In(stream)
        Jobs.
    read : Out(ReadPort)
        Memory.
    write_en, write_bank, write_word, write_lane, write_data
        To the scratchpad.
    full, release : Out(2), In(2)
        Banks that hold all queries of a job; strobes: a bank is no longer needed.
    requested : Out(1)
        Strobe: all queries of a job are under way.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.lanes = word_bytes(config) // config.bus_bytes
        words = scratchpad_words(config)
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "read": Out(ReadPort(config)),
                "write_en": Out(1),
                "write_bank": Out(1),
                "write_word": Out(range(words)),
                "write_lane": Out(ceil_log2(self.lanes)),
                "write_data": Out(config.bus_bytes * 8),
                "full": Out(2),
                "release": In(2),
                "requested": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        beat = self.read.data
        # Memory is far away.
        m.submodules.requests = requests = SkidBuffer(request_layout(self.config))
        connect(m, requests.o, flipped(self.read.request))
        addr = Signal(self.config.address_bits, reset_less=True)
        job = Signal(attention_layout(self.config), reset_less=True)
        bank = Signal()
        # Rows to ask for and to come; whether there are some, and whether it is one.
        asks, rows = (Signal.like(job.m, reset_less=True) for _ in range(2))
        asking, last_ask, last_row = Signal(), Signal(), Signal()
        row_word, word = Signal(range(scratchpad_words(self.config) + 1)), Signal(job.k.shape())
        lane = Signal(ceil_log2(self.lanes))
        arrives, asked, announced = Signal(), Signal(), Signal(init=1)
        m.d.comb += [
            asked.eq(asking & requests.i.ready),
            requests.i.valid.eq(asking),
            requests.i.p.addr.eq(addr),
            requests.i.p.nbytes.eq(job.k),
            self.requested.eq(~asking & ~requests.o.valid & ~announced),
            beat.ready.eq(1),
            arrives.eq(beat.valid),
            self.error.eq(arrives & beat.p.error),
            self.write_data.eq(delay(m, beat.p.data, 1, reset_less=True)),
        ]
        m.d.sync += [
            announced.eq((announced | self.requested) & ~asking),
            self.full.eq(self.full & ~self.release),
            self.write_en.eq(arrives),
            self.write_bank.eq(bank),
            self.write_word.eq(row_word + word),
            self.write_lane.eq(lane),
        ]

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(~self.full.bit_select(bank, 1))
                m.d.sync += [
                    job.eq(self.job.p),
                    addr.eq(self.job.p.a_addr),
                    asks.eq(self.job.p.m),
                    rows.eq(self.job.p.m),
                    last_ask.eq(self.job.p.m == 1),
                    last_row.eq(self.job.p.m == 1),
                    row_word.eq(0),
                ]
                with m.If(self.job.valid):
                    m.d.sync += asking.eq(1)
                    m.next = "LOAD"
            with m.State("LOAD"):
                with m.If(asked):
                    m.d.sync += [
                        asks.eq(asks - 1),
                        asking.eq(~last_ask),
                        last_ask.eq(asks == 2),
                        addr.eq(addr + job.a_stride),
                    ]
                with m.If(arrives):
                    last_lane = (lane == self.lanes - 1) if self.lanes > 1 else 1
                    m.d.sync += [lane.eq(lane + 1), word.eq(word + last_lane)]
                    with m.If(beat.p.last):
                        m.d.sync += [
                            lane.eq(0),
                            word.eq(0),
                            rows.eq(rows - 1),
                            last_row.eq(rows == 2),
                            row_word.eq(row_word + job.query_tiles),
                        ]
                        with m.If(last_row):
                            m.d.sync += [
                                self.full.bit_select(bank, 1).eq(1),
                                bank.eq(~bank),
                            ]
                            m.next = "IDLE"
        return m


class RowLoader(Component):
    """Hold the scale and the length of each query, of one job in use and one loaded ahead.

    Members
    -------
    job : In(stream)
        Jobs.
    read : Out(ReadPort)
        Memory.
    bank, row, record : In(1), In, Out(ATTENTION_ROW)
        Read a record; `FETCH_LATENCY` cycles later it is there.
    full, release : Out(2), In(2)
        Banks that hold all records of a job; strobes: a bank is no longer needed.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "read": Out(ReadPort(config)),
                "bank": In(1),
                "row": In(range(config.accumulator_rows)),
                "record": Out(record_layout(ATTENTION_ROW)),
                "full": Out(2),
                "release": In(2),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        beat = self.read.data
        m.submodules.requests = requests = SkidBuffer(request_layout(self.config))
        connect(m, requests.o, flipped(self.read.request))
        request = requests.i
        addr = Signal(config.address_bits, reset_less=True)
        nbytes = Signal(range(config.accumulator_rows * ATTENTION_ROW.nbytes + 1), reset_less=True)
        m.d.comb += [request.p.addr.eq(addr), request.p.nbytes.eq(nbytes)]
        per_beat = config.bus_bytes // ATTENTION_ROW.nbytes
        depth = config.accumulator_rows // per_beat
        m.submodules.memory = memory = Memory(shape=config.bus_bytes * 8, depth=2 * depth, init=[])
        write, read = memory.write_port(), memory.read_port()
        bank, loading = Signal(), Signal()
        word = Signal(range(depth))
        some = self.row[: exact_log2(per_beat)]  # within a beat
        m.d.comb += [
            beat.ready.eq(1),
            self.error.eq(beat.valid & beat.p.error),
            write.en.eq(beat.valid),
            write.data.eq(beat.p.data),
            write.addr.eq(Cat(word, bank)),
            read.en.eq(1),
            read.addr.eq(Cat(self.row[len(some) :], self.bank)),
        ]
        m.d.sync += self.full.eq(self.full & ~self.release)
        held = data.ArrayLayout(len(read.data) // per_beat, per_beat)
        value = held(delay(m, read.data, FETCH_LATENCY - 1, reset_less=True))
        other = delay(m, some, FETCH_LATENCY, reset_less=True)
        m.d.comb += Value.cast(self.record).eq(value[other] if per_beat > 1 else value[0])

        with m.If(beat.valid):
            m.d.sync += word.eq(word + 1)
            with m.If(beat.p.last):
                m.d.sync += [
                    word.eq(0),
                    loading.eq(0),
                    bank.eq(~bank),
                    self.full.bit_select(bank, 1).eq(1),
                ]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(~loading & ~self.full.bit_select(bank, 1))
                m.d.sync += [
                    addr.eq(self.job.p.p_addr),
                    nbytes.eq(self.job.p.m << exact_log2(ATTENTION_ROW.nbytes)),
                ]
                with m.If(self.job.valid):
                    m.d.sync += loading.eq(1)
                    m.next = "ASK"
            with m.State("ASK"):
                m.d.comb += request.valid.eq(1)
                with m.If(request.ready):
                    m.next = "IDLE"
        return m
