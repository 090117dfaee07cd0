"""Weights: a whole packed matrix streams from memory into the array, once for each tile of rows."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import W4_GROUP

from ..axi.ports import ReadPort
from .job import job_layout
from .walk import TileWalk

__all__ = ["WeightFeeder", "WeightLoader"]


class WeightLoader(Component):
    """Request packed weights ahead of the array, each port its stripe.

    Members
    -------
    job : In(stream)
        Jobs.
    request_<port> : Out(stream)
        Requests of one port.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        request = ReadPort(config).members["request"].signature
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                **{f"request_{port}": Out(request) for port in range(config.ports)},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=False)
        job = walk.current
        active, fresh = Signal(), Signal()
        done = Signal(config.ports)  # ports that have this block's request
        offset, nbytes = Signal(32), Signal(32)  # of a stripe
        ready = Signal()

        per_port = exact_log2(config.ports)
        groups = (job.k + (W4_GROUP - 1)) >> exact_log2(W4_GROUP)
        w4_bytes = (job.k_blocks << exact_log2(config.tile_bytes) >> 1) + (
            groups << exact_log2(config.scale_bytes)
        )
        m.d.comb += [
            nbytes.eq(
                Mux(job.w4, w4_bytes, job.k_blocks << exact_log2(config.tile_bytes)) >> per_port
            ),
            ready.eq(
                Cat(
                    done[port] | getattr(self, f"request_{port}").ready
                    for port in range(config.ports)
                ).all()
            ),
            walk.job.eq(self.job.p),
            walk.start.eq(self.job.valid & self.job.ready),
            self.job.ready.eq(~active),
        ]
        for port in range(config.ports):
            request = getattr(self, f"request_{port}")
            stripe = Signal(config.address_bits, name=f"stripe_{port}")
            m.d.sync += stripe.eq(job.w_addr + port * job.w_stride)
            m.d.comb += [
                request.valid.eq(active & ~fresh & ~done[port]),
                request.p.addr.eq(stripe + offset),
                request.p.nbytes.eq(nbytes),
            ]
        with m.If(walk.start):
            m.d.sync += [active.eq(1), fresh.eq(1), offset.eq(0)]
        with m.Elif(fresh):  # stripes are known in the next cycle
            m.d.sync += fresh.eq(0)
        with m.Elif(active):
            m.d.sync += done.eq(
                Cat(
                    done[port] | getattr(self, f"request_{port}").ready
                    for port in range(config.ports)
                )
            )
            with m.If(ready):
                m.d.sync += [
                    done.eq(0),
                    offset.eq(Mux(walk.last_n, 0, offset + nbytes)),
                    active.eq(~walk.last),
                ]
        m.d.comb += walk.step.eq(active & ~fresh & ready)
        return m


class WeightFeeder(Component):
    """Pass beats of weights, and of the scales of INT4 groups, to the array in their turn.

    Members
    -------
    job : In(stream)
        Jobs.
    data_<port> : In(stream)
        Beats of one port.
    load_weights, load_scales : Out(1)
        A beat of all ports goes to the array, or to the scales.
    w4 : Out(1)
        The beat holds INT4 weights.
    beat : Out(stream_bytes * 8)
        Its data.
    tile_loaded, loaded, swap : In(1)
        The array's second set is whole after this beat; is whole; becomes current now.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        beat = ReadPort(config).members["data"].signature.flip()
        super().__init__(
            {
                "job": In(stream.Signature(job_layout(config))),
                **{f"data_{port}": In(beat) for port in range(config.ports)},
                "load_weights": Out(1),
                "load_scales": Out(1),
                "w4": Out(1),
                "beat": Out(config.stream_bytes * 8),
                "tile_loaded": In(1),
                "loaded": In(1),
                "swap": In(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = TileWalk(config, along_k=True)
        job = walk.current
        ports = [getattr(self, f"data_{port}") for port in range(config.ports)]
        active, finished = Signal(), Signal()
        scale_beats = config.scale_bytes // config.stream_bytes
        scales_left = Signal(range(scale_beats + 1))
        tiles_left = Signal(range(W4_GROUP // config.rows + 1))  # of the group
        valid, take = Signal(), Signal()

        m.d.comb += [
            valid.eq(Cat(port.valid for port in ports).all()),
            take.eq(active & valid & (~self.loaded | self.swap)),
            self.beat.eq(Cat(port.p.data for port in ports)),
            self.w4.eq(job.w4),
            self.load_scales.eq(take & (scales_left != 0)),
            self.load_weights.eq(take & (scales_left == 0)),
            self.error.eq(take & Cat(port.p.error for port in ports).any()),
            walk.job.eq(self.job.p),
            walk.step.eq(self.load_weights & self.tile_loaded),
            finished.eq(walk.step & walk.last),
            self.job.ready.eq(~active | finished),
            walk.start.eq(self.job.valid & self.job.ready),
        ]
        for port in ports:
            m.d.comb += port.ready.eq(take)

        with m.If(self.load_scales):
            m.d.sync += scales_left.eq(scales_left - 1)
        with m.If(walk.step & job.w4):
            m.d.sync += tiles_left.eq(tiles_left - 1)
            with m.If((tiles_left == 1) | walk.last_k):
                m.d.sync += [
                    tiles_left.eq(W4_GROUP // config.rows),
                    scales_left.eq(scale_beats),
                ]
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(walk.start):
            m.d.sync += [
                active.eq(1),
                scales_left.eq(Mux(self.job.p.w4, scale_beats, 0)),
                tiles_left.eq(W4_GROUP // config.rows),
            ]
        return m
