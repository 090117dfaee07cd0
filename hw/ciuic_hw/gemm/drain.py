"""Results: complete accumulator banks go to memory, and a job is reported when all are there."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig, Status

from ..axi.ports import WritePort
from .job import job_layout

__all__ = ["Drain"]


class Drain(Component):
    """Write rows of INT32 results and report jobs in order.

    Members
    -------
    job : In(stream)
        Jobs, bad ones too.
    full, drained : In(2), Out(2)
        Accumulator banks.
    read_en, read_bank, read_row, read_data
        To and from the accumulators.
    write : Out(WritePort)
        Memory.
    read_error : In(1)
        Strobe: a read of this job, or of the one that is loaded ahead, was refused.
    busy : In(2 * 32)
        Rows issued for the jobs of even and of odd number.
    done : Out(stream)
        See `EngineSignature`.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "full": In(2),
                "drained": Out(2),
                "read_en": Out(1),
                "read_bank": Out(1),
                "read_row": Out(ceil_log2(config.accumulator_rows)),
                "read_data": In(config.cols * 32),
                "write": Out(WritePort(config)),
                "read_error": In(1),
                "busy": In(data.ArrayLayout(32, 2)),
                "done": Out(stream.Signature(data.StructLayout({"status": 8, "busy": 32}))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        bus_bits = config.bus_bytes * 8
        row_bytes = config.cols * 4
        row_beats = row_bytes // config.bus_bytes
        job = Signal(job_layout(config))
        parity = Signal(init=1)

        rows_left = Signal(job.m.shape())
        tile_rows = Signal(range(config.accumulator_rows + 1))
        n_left = Signal(job.n.shape())
        row = Signal(range(config.accumulator_rows + 1))
        bank = Signal()
        row_addr, next_tile = Signal(config.address_bits), Signal(config.address_bits)
        tile_addr = Signal(config.address_bits)
        columns = Signal(range(config.cols + 1))
        m.d.comb += [
            tile_rows.eq(Mux(rows_left < job.tile_m, rows_left, job.tile_m)),
            columns.eq(Mux(n_left < config.cols, n_left, config.cols)),
        ]

        # A row waits at the memory's output until the one before it has gone.
        fetched = Signal()
        words = Signal(row_bytes * 8)
        beats_left = Signal(range(row_beats + 1))
        take = Signal()
        request = self.write.request
        m.d.comb += [
            self.read_bank.eq(bank),
            self.read_row.eq(row),
            self.write.data.p.eq(words[:bus_bits]),
            self.write.data.valid.eq(beats_left != 0),
            request.p.addr.eq(row_addr),
            request.p.nbytes.eq(columns << 2),
            request.valid.eq(
                fetched & ((beats_left == 0) | ((beats_left == 1) & self.write.data.ready))
            ),
            take.eq(request.valid & request.ready),
        ]
        with m.If(self.write.data.valid & self.write.data.ready):
            m.d.sync += [words.eq(words >> bus_bits), beats_left.eq(beats_left - 1)]
        with m.If(take):
            nbytes = columns << 2
            m.d.sync += [
                words.eq(self.read_data),
                beats_left.eq((nbytes + (config.bus_bytes - 1)) >> exact_log2(config.bus_bytes)),
                row_addr.eq(row_addr + job.o_stride),
            ]

        failed_read, failed_write = Signal(), Signal()
        with m.If(self.read_error):
            m.d.sync += failed_read.eq(1)
        with m.If(self.write.error):
            m.d.sync += failed_write.eq(1)

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                with m.If(self.job.valid):
                    m.d.sync += [
                        job.eq(self.job.p),
                        rows_left.eq(self.job.p.m),
                        tile_addr.eq(self.job.p.o_addr),
                    ]
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += [n_left.eq(job.n), row_addr.eq(tile_addr), next_tile.eq(tile_addr)]
                m.next = "BANK"
                with m.If(job.bad):
                    m.next = "REPORT"
                with m.Else():
                    with m.If(rows_left == job.m):
                        m.d.sync += parity.eq(~parity)
            with m.State("BANK"):
                with m.If(self.full.bit_select(bank, 1)):
                    m.d.comb += self.read_en.eq(1)
                    m.d.sync += [fetched.eq(1), row.eq(1)]
                    m.next = "ROWS"
            with m.State("ROWS"):
                with m.If(take):
                    m.d.comb += self.read_en.eq(row != tile_rows)
                    m.d.sync += [fetched.eq(row != tile_rows), row.eq(row + 1)]
                    with m.If(row == tile_rows):
                        m.d.comb += self.drained.bit_select(bank, 1).eq(1)
                        m.d.sync += [
                            bank.eq(~bank),
                            row.eq(0),
                            n_left.eq(n_left - columns),
                            next_tile.eq(next_tile + row_bytes),
                            row_addr.eq(next_tile + row_bytes),
                        ]
                        m.next = "BANK"
                        with m.If(n_left == columns):
                            m.d.sync += [
                                rows_left.eq(rows_left - tile_rows),
                                tile_addr.eq(row_addr + job.o_stride - (next_tile - tile_addr)),
                            ]
                            m.next = "TILE"
                            with m.If(rows_left == tile_rows):
                                m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If((beats_left == 0) & ~self.write.busy):
                    m.next = "REPORT"
            with m.State("REPORT"):
                m.d.comb += [
                    self.done.valid.eq(1),
                    self.done.p.busy.eq(Mux(job.bad, 0, self.busy[parity])),
                    self.done.p.status.eq(
                        Mux(
                            job.bad,
                            Status.BAD_SIZE,
                            Mux(
                                failed_read,
                                Status.READ_ERROR,
                                Mux(failed_write, Status.WRITE_ERROR, Status.OK),
                            ),
                        )
                    ),
                ]
                with m.If(self.done.ready):
                    m.d.sync += [failed_read.eq(0), failed_write.eq(0)]
                    m.next = "IDLE"
        return m
