"""Weights: a whole packed matrix streams from memory into the array, once for each tile of rows."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from ..axi.ports import ReadPort
from .job import job_layout

__all__ = ["WeightLoader"]


class WeightLoader(Component):
    """Request packed weights ahead of the array and pass their beats on.

    Members
    -------
    job : In(stream)
        Jobs.
    read : Out(ReadPort)
        Memory.
    load, beat : Out(1), Out(bus_bytes * 8)
        To the array.
    loaded, swap : In(1), In(1)
        From the array and to it: a beat passes when there is no whole tile, or it leaves just now.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "read": Out(ReadPort(config)),
                "load": Out(1),
                "beat": Out(config.bus_bytes * 8),
                "loaded": In(1),
                "swap": In(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        job = Signal(job_layout(config))
        rows_left = Signal(job.m.shape())
        blocks_left = Signal(job.n_blocks.shape())
        addr = Signal(config.address_bits)
        nbytes = Signal(32)
        request = self.read.request
        m.d.comb += nbytes.eq(job.k_blocks << exact_log2(config.tile_bytes))

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.job.ready.eq(1)
                m.d.sync += [job.eq(self.job.p), rows_left.eq(self.job.p.m)]
                with m.If(self.job.valid):
                    m.next = "TILE"
            with m.State("TILE"):
                m.d.sync += [addr.eq(job.w_addr), blocks_left.eq(job.n_blocks)]
                m.next = "COLUMNS"
            with m.State("COLUMNS"):  # all tiles of one block of columns
                m.d.comb += [
                    request.valid.eq(1),
                    request.p.addr.eq(addr),
                    request.p.nbytes.eq(nbytes),
                ]
                with m.If(request.ready):
                    m.d.sync += [addr.eq(addr + nbytes), blocks_left.eq(blocks_left - 1)]
                    with m.If(blocks_left == 1):
                        m.d.sync += rows_left.eq(rows_left - job.tile_m)
                        m.next = "TILE"
                        with m.If(rows_left <= job.tile_m):
                            m.next = "IDLE"

        m.d.comb += [
            self.read.data.ready.eq(~self.loaded | self.swap),
            self.load.eq(self.read.data.valid & self.read.data.ready),
            self.beat.eq(self.read.data.p.data),
            self.error.eq(self.load & self.read.data.p.error),
        ]
        return m
