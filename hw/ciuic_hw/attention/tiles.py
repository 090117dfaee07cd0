"""Tiles of keys and values: requested ahead in the order of the phases, and fed to the array."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from ..axi.ports import ReadPort
from ..streams import SkidBuffer, delay
from .job import PhaseWalk, attention_layout

__all__ = ["TileFeeder", "TileLoader"]


class TileLoader(Component):
    """Request the tiles of a phase of keys or values, each port its stripe.

    Members
    -------
    job : In(stream)
        Jobs.
    queries_requested : In(1)
        Strobe: the queries of one more job are under way. Its tiles come behind them, as nothing
        can begin without queries.
    request_<port> : Out(stream)
        Requests of one port.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        request = ReadPort(config).members["request"].signature
        super().__init__(
            {
                "job": In(stream.Signature(attention_layout(config))),
                "queries_requested": In(1),
                **{f"request_{port}": Out(request) for port in range(config.ports)},
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        m.submodules.walk = walk = PhaseWalk()
        job = Signal(attention_layout(config), reset_less=True)
        active = Signal()
        ahead = Signal(range(4))  # jobs whose queries were requested and whose tiles were not
        settled = Signal(3)  # what is the same for the whole job is known
        done = Signal(config.ports)  # ports that have this phase's request
        key_bytes, value_bytes, nbytes, key_offset, value_offset = (  # of a stripe
            Signal(32, name=name, reset_less=True)
            for name in ("key_bytes", "value_bytes", "nbytes", "key_offset", "value_offset")
        )
        taken = Signal(config.ports)
        stepped, were_values = delay(m, walk.step, 1), delay(m, walk.values, 1)
        stripe_log2 = exact_log2(config.tile_bytes) - exact_log2(config.ports)
        m.d.sync += [
            key_bytes.eq(job.query_tiles << stripe_log2),
            value_bytes.eq(job.value_blocks << stripe_log2),
            nbytes.eq(Mux(walk.values, value_bytes, key_bytes)),
            settled.eq((settled << 1) | 1),
            ahead.eq(ahead + self.queries_requested - walk.start),
        ]
        m.d.comb += [
            self.job.ready.eq(~active & (ahead != 0)),
            walk.start.eq(self.job.valid),
            walk.key_blocks.eq(self.job.p.key_blocks),
            walk.step.eq(active & taken.all()),
        ]
        for port in range(config.ports):
            request = getattr(self, f"request_{port}")
            keys, values, addr = (
                Signal(config.address_bits, name=f"{name}_{port}", reset_less=True)
                for name in ("keys", "values", "addr")
            )
            m.d.sync += [
                keys.eq(job.w_addr + port * job.w_stride),
                values.eq(job.r_addr + port * job.r_stride),
                addr.eq(Mux(walk.values, values + value_offset, keys + key_offset)),
            ]
            m.d.comb += [
                request.p.addr.eq(addr),
                request.valid.eq(active & settled.all() & ~done[port]),
                request.p.nbytes.eq(nbytes),
                taken[port].eq(done[port] | (request.valid & request.ready)),
            ]
        with m.If(active):
            m.d.sync += done.eq(taken)
        with m.If(walk.step):
            m.d.sync += [done.eq(0), settled.eq(settled >> 2), active.eq(~walk.last)]
        # Ports are far away, so offsets follow a cycle behind; until then nothing is settled.
        with m.If(stepped):
            with m.If(were_values):
                m.d.sync += value_offset.eq(value_offset + value_bytes)
            with m.Else():
                m.d.sync += key_offset.eq(key_offset + key_bytes)
        with m.If(walk.start):
            m.d.sync += [
                job.eq(self.job.p),
                active.eq(1),
                settled.eq(0),
                key_offset.eq(0),
                value_offset.eq(0),
            ]
        return m


class TileFeeder(Component):
    """Pass beats to the array, tile after tile.

    Members
    -------
    data_<port> : In(stream)
        Beats of one port.
    load, place, beat : Out
        To the array, see `PeArray`.
    loaded_next, swap : Out(1), In(1)
        In the next cycle the array's second set holds a whole tile; it becomes current now.
    error : Out(1)
        Strobe: the memory refused a read.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        beat = ReadPort(config).members["data"].signature.flip()
        super().__init__(
            {
                **{f"data_{port}": In(beat) for port in range(config.ports)},
                "load": Out(1),
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
        ports = [getattr(self, f"data_{port}") for port in range(config.ports)]
        m.submodules.waiting = waiting = SkidBuffer(
            data.StructLayout({"beat": config.stream_bytes * 8, "error": 1})
        )
        valid, take = Signal(), Signal()
        m.d.comb += [
            valid.eq(Cat(port.valid for port in ports).all()),
            take.eq(valid & waiting.i.ready),
            waiting.i.valid.eq(valid),
            waiting.i.p.beat.eq(Cat(port.p.data for port in ports)),
            waiting.i.p.error.eq(Cat(port.p.error for port in ports).any()),
        ]
        for port in ports:
            m.d.comb += port.ready.eq(take)

        out = waiting.o
        loaded, last = Signal(), Signal(init=config.tile_beats == 1)  # the beat completes a tile
        next_place = Mux(last, 0, self.place + 1)
        m.d.sync += loaded.eq(self.loaded_next)
        m.d.comb += [
            out.ready.eq(~loaded | self.swap),
            self.loaded_next.eq(Mux(out.ready, out.valid & last, 1)),
            self.load.eq(out.valid & out.ready),
            self.beat.eq(out.p.beat),
            self.error.eq(self.load & out.p.error),
        ]
        with m.If(self.load):
            m.d.sync += [self.place.eq(next_place), last.eq(next_place == config.tile_beats - 1)]
        return m
