"""What the output stage reads from memory: parameters of columns, and a residual."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import PARAMETERS, OverlayConfig

from ..axi.ports import ReadPort
from ..streams import delay
from .job import job_layout, result_lanes
from .walk import RowWalk, TileWalk

__all__ = ["ParameterLoader", "ResidualLoader"]


class ParameterLoader(Component):
    """Hold the parameters of two blocks of columns, one in use and one loaded ahead.

    Members
    -------
    job : In(stream)
        Jobs; those without parameters are passed over.
    read : Out(ReadPort)
        Memory.
    full : Out(1)
        The parameters of the current block are there.
    place, lanes : In, Out
        Read the parameters of `result_lanes` neighbouring columns, in the same cycle.
    release : In(1)
        Strobe: go on to the next block.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.places = config.cols // result_lanes(config)
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "read": Out(ReadPort(config)),
                "full": Out(1),
                "place": In(ceil_log2(self.places)),
                "lanes": Out(result_lanes(config) * PARAMETERS.nbytes * 8),
                "release": In(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=False)
        job = walk.current
        active = Signal()
        requested, held = Signal(range(3)), Signal(range(3))  # blocks spoken for; blocks there
        offset = Signal(32)
        request, beat = self.read.request, self.read.data
        asked = Signal()
        stepped = delay(m, asked, 1)  # the walk still shows the block
        moved = delay(m, asked | walk.start, 1)
        settled = Signal()  # the walk shows the place
        addr = Signal.like(request.p.addr, reset_less=True)
        nbytes = Signal.like(request.p.nbytes, reset_less=True)
        m.d.sync += [
            settled.eq(~moved),
            addr.eq(job.p_addr + offset),
            nbytes.eq(walk.columns << exact_log2(PARAMETERS.nbytes)),
        ]
        m.d.comb += [
            self.job.ready.eq(~active),
            walk.job.eq(self.job.p),
            walk.start.eq(self.job.valid & self.job.p.parameters),
            request.valid.eq(active & settled & ~moved & (requested != 2)),
            request.p.addr.eq(addr),
            request.p.nbytes.eq(nbytes),
            asked.eq(request.valid & request.ready),
            walk.step.eq(asked),
        ]
        with m.If(walk.start):
            m.d.sync += [active.eq(1), offset.eq(0)]
        with m.If(stepped):
            block = config.cols * PARAMETERS.nbytes
            m.d.sync += [
                offset.eq(Mux(walk.last_n, 0, offset + block)),
                active.eq(~walk.last),
            ]

        m.submodules.memory = memory = Memory(shape=len(self.lanes), depth=2 * self.places, init=[])
        beats = len(self.lanes) // (config.bus_bytes * 8)
        write = memory.write_port(granularity=config.bus_bytes * 8)
        read = memory.read_port(domain="comb")
        write_bank, read_bank = Signal(), Signal()
        count = Signal(range(self.places * beats))
        arrived = Signal()
        m.d.comb += [
            beat.ready.eq(1),
            arrived.eq(beat.valid & beat.p.last),
            self.error.eq(beat.valid & beat.p.error),
            write.addr.eq(Cat((count >> exact_log2(beats))[: len(self.place)], write_bank)),
            write.data.eq(beat.p.data.replicate(beats)),
            write.en.eq(beat.valid << count[: exact_log2(beats)]),
            read.addr.eq(Cat(self.place, read_bank)),
            self.lanes.eq(read.data),
            self.full.eq(held != 0),
        ]
        with m.If(beat.valid):
            m.d.sync += count.eq(Mux(beat.p.last, 0, count + 1))
        with m.If(arrived):
            m.d.sync += write_bank.eq(~write_bank)
        with m.If(self.release):
            m.d.sync += read_bank.eq(~read_bank)
        m.d.sync += [
            requested.eq(requested + asked - self.release),
            held.eq(held + arrived - self.release),
        ]
        return m


class ResidualLoader(Component):
    """Request the residual in the order in which results leave; its beats go to the output stage.

    Members
    -------
    job : In(stream)
        Jobs; those without a residual are passed over.
    request : Out(stream)
        Requests of the read port.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                "request": Out(ReadPort(config).members["request"].signature),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.walk = walk = RowWalk(self.config, address="r_addr", stride="r_stride")
        active = Signal()
        m.d.comb += [
            self.job.ready.eq(~active),
            walk.job.eq(self.job.p),
            walk.start.eq(self.job.valid & self.job.p.residual),
            self.request.valid.eq(active & walk.ready),
            self.request.p.addr.eq(walk.addr),
            self.request.p.nbytes.eq(walk.nbytes),
            walk.step.eq(self.request.valid & self.request.ready),
        ]
        with m.If(walk.start):
            m.d.sync += active.eq(1)
        with m.If(walk.step & walk.last):
            m.d.sync += active.eq(0)
        return m
