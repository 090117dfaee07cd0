"""Weights: a whole packed matrix streams from memory into the array, once for each tile of rows."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import W4_GROUP

from ..axi.ports import ReadPort
from ..streams import SkidBuffer, delay
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
        active = Signal()
        settled = Signal(4)  # what is the same for the whole job is known
        done = Signal(config.ports)  # ports that have this block's request
        offset, nbytes = (Signal(32, reset_less=True) for _ in range(2))  # of a stripe
        ready = Signal()

        per_port = exact_log2(config.ports)
        groups = Signal(job.k.shape(), reset_less=True)
        tile_bytes, group_bytes = (Signal(32, reset_less=True) for _ in range(2))
        m.d.sync += [
            groups.eq((job.k + (W4_GROUP - 1)) >> exact_log2(W4_GROUP)),
            group_bytes.eq(Mux(job.w4, groups << exact_log2(config.scale_bytes), 0)),
            tile_bytes.eq((job.k_blocks << exact_log2(config.tile_bytes)) >> job.w4),
            nbytes.eq((tile_bytes + group_bytes) >> per_port),
        ]
        m.d.comb += [
            ready.eq(
                Cat(
                    done[port] | getattr(self, f"request_{port}").ready
                    for port in range(config.ports)
                ).all()
            ),
            walk.job.eq(self.job.p),
            walk.start.eq(self.job.valid),
            self.job.ready.eq(~active),
        ]
        for port in range(config.ports):
            request = getattr(self, f"request_{port}")
            stripe = Signal(config.address_bits, name=f"stripe_{port}", reset_less=True)
            addr = Signal(config.address_bits, name=f"addr_{port}", reset_less=True)
            m.d.sync += [
                stripe.eq(job.w_addr + port * job.w_stride),
                addr.eq(stripe + offset),
            ]
            m.d.comb += [
                request.valid.eq(active & settled.all() & ~done[port]),
                request.p.addr.eq(addr),
                request.p.nbytes.eq(nbytes),
            ]
        with m.If(walk.start):
            m.d.sync += [active.eq(1), settled.eq(0), offset.eq(0)]
        with m.Elif(~settled.all()):
            m.d.sync += settled.eq((settled << 1) | 1)
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
                    settled.eq(settled >> 1),  # the walk shows the next place in two cycles
                    offset.eq(Mux(walk.last_n, 0, offset + nbytes)),
                    active.eq(~walk.last),
                ]
        m.d.comb += walk.step.eq(active & settled.all() & ready)
        return m


class WeightFeeder(Component):
    """Pass beats of weights, and of the scales of INT4 groups, to the array in their turn.

    What a beat is is found out where it leaves memory; it then waits until the array has room.

    Members
    -------
    job : In(stream)
        Jobs.
    data_<port> : In(stream)
        Beats of one port.
    load_weights, load_scales : Out(1)
        A beat of all ports goes to the array, or to the scales.
    w4, place : Out(1), Out(range(tile_beats))
        The beat holds INT4 weights; its place in the tile.
    beat : Out(stream_bytes * 8)
        Its data.
    loaded_next : Out(1)
        In the next cycle the array's second set holds a whole tile.
    swap : In(1)
        It becomes current now; a beat of the next tile may pass in the same cycle.
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
                "place": Out(range(config.tile_beats)),
                "beat": Out(config.stream_bytes * 8),
                "loaded_next": Out(1),
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
        kind = data.StructLayout(
            {
                "beat": config.stream_bytes * 8,
                "place": range(config.tile_beats),
                "scales": 1,
                "w4": 1,
                "last": 1,  # completes a tile
            }
        )
        m.submodules.waiting = waiting = SkidBuffer(kind)
        # Beats are of the job; there is one. The former has to be where memory's beats arrive.
        active, busy = Signal(), Signal()
        finished = Signal()
        scale_beats = config.scale_bytes // config.stream_bytes
        scales_left = Signal(range(scale_beats + 1), reset_less=True)
        scaling = Signal()  # some are left
        tiles_left = Signal(range(W4_GROUP // config.rows + 1))  # of the group
        place = Signal(range(config.tile_beats))
        last = Signal()

        def is_last(place):
            return place + step >= config.tile_beats

        turning = Signal()  # the walk goes on to the next block: a tile of one beat has to wait
        step = Signal(range(3))
        valid, take, weights = Signal(), Signal(), Signal()

        m.d.comb += [
            valid.eq(Cat(*(port.valid for port in ports), active, ~turning).all()),
            take.eq(valid & waiting.i.ready),
            weights.eq(take & ~scaling),
            step.eq(Mux(job.w4, 2, 1)),
            waiting.i.valid.eq(valid),
            waiting.i.p.beat.eq(Cat(port.p.data for port in ports)),
            waiting.i.p.place.eq(place),
            waiting.i.p.scales.eq(scaling),
            waiting.i.p.w4.eq(job.w4),
            waiting.i.p.last.eq(~scaling & last),
            walk.job.eq(self.job.p),
            walk.step.eq(take & waiting.i.p.last),
            finished.eq(walk.step & walk.last),
            self.job.ready.eq(~busy),
            walk.start.eq(self.job.valid),
        ]
        m.d.sync += [
            place.eq(Mux(weights, Mux(last, 0, place + step), place)),
            last.eq(
                Mux(weights, Mux(last, is_last(0), is_last(place + step)), is_last(place)),
            ),
            self.error.eq(take & Cat(port.p.error for port in ports).any()),
        ]
        if config.tile_beats == 1:
            m.d.sync += turning.eq(walk.step & walk.last_k)
        for port in ports:
            m.d.comb += port.ready.eq(take)

        with m.If(take & scaling):
            m.d.sync += [scales_left.eq(scales_left - 1), scaling.eq(scales_left != 1)]
        with m.If(walk.step & job.w4):
            m.d.sync += tiles_left.eq(tiles_left - 1)
            with m.If((tiles_left == 1) | walk.last_k):
                m.d.sync += [
                    tiles_left.eq(W4_GROUP // config.rows),
                    scales_left.eq(scale_beats),
                    scaling.eq(1),
                ]
        with m.If(finished):
            m.d.sync += active.eq(0)
        with m.If(delay(m, walk.start, 2)):  # the walk is there
            m.d.sync += active.eq(1)
        with m.If(delay(m, finished, 1)):
            m.d.sync += busy.eq(0)
        with m.If(walk.start):
            m.d.sync += [
                busy.eq(1),
                scales_left.eq(scale_beats),
                scaling.eq(self.job.p.w4),
                tiles_left.eq(W4_GROUP // config.rows),
            ]

        # To the array while its second set is not whole, or becomes current.
        out = waiting.o
        loaded = Signal()
        m.d.sync += loaded.eq(self.loaded_next)
        m.d.comb += [
            out.ready.eq(~loaded | self.swap),
            self.loaded_next.eq(Mux(out.ready, out.valid & out.p.last, 1)),
            self.load_weights.eq(out.valid & out.ready & ~out.p.scales),
            self.load_scales.eq(out.valid & out.ready & out.p.scales),
            self.w4.eq(out.p.w4),
            self.place.eq(out.p.place),
            self.beat.eq(out.p.beat),
        ]
        return m
