"""The read side of the AXI master: several read ports share one AR and R channel."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig

from ..arithmetic import less
from ..streams import StreamFifo, delay
from .bus import BURST_INCR, MAX_BURST_BEATS
from .ports import ReadPort, beat_layout, lowest, selected
from .splitter import BurstSplitter, burst_layout

__all__ = ["ReadChannel", "ReadQueue", "connect_axi_read"]


class ReadQueue(Component):
    """Offer bursts of one port only when there is room for all their beats.

    Because every beat in flight has its place, the R channel never waits for an engine, and ports
    that share it cannot block each other.

    Parameters
    ----------
    config
        The overlay's configuration.
    depth
        Beats of the queue, a power of two. Bursts are at most half of it.

    Members
    -------
    port : In(ReadPort)
        The engine's port.
    burst : Out(stream)
        Bursts that may be issued now.
    beat : In(stream)
        Beats of issued bursts; always ready.
    """

    def __init__(self, config: OverlayConfig, *, depth: int):
        self.config = config
        self.depth = depth
        self._beat = beat_layout(config)
        super().__init__(
            {
                "port": In(ReadPort(config)),
                "burst": Out(stream.Signature(burst_layout(config))),
                "beat": In(stream.Signature(self._beat, always_ready=True)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        max_burst = min(MAX_BURST_BEATS, self.depth // 2)
        m.submodules.splitter = splitter = BurstSplitter(self.config, max_burst=max_burst)
        m.submodules.fifo = fifo = StreamFifo(self._beat, depth=self.depth)
        connect(m, flipped(self.port.request), splitter.request)
        connect(m, fifo.o, flipped(self.port.data))

        room = Signal(range(self.depth + 1), init=self.depth)
        issue, issued, taken = Signal(), Signal(), Signal()
        beats = delay(m, splitter.burst.p.beats, 1, reset_less=True)
        m.d.sync += [
            issued.eq(issue),
            taken.eq(self.port.data.valid & self.port.data.ready),
            room.eq(room - Mux(issued, beats, 0) + taken),
            # Once there is room there is room until the burst is issued. The next one is valid at
            # the earliest when `room` knows of that.
            self.burst.valid.eq(
                splitter.burst.valid & ~less(room, splitter.burst.p.beats) & ~issue
            ),
        ]
        m.d.comb += [
            self.burst.p.eq(splitter.burst.p),
            issue.eq(self.burst.valid & self.burst.ready),
            splitter.burst.ready.eq(issue),
            fifo.i.p.eq(self.beat.p),
            fifo.i.valid.eq(self.beat.valid),
        ]
        return m


class ReadChannel(Component):
    """Serve several read ports a burst each in turn, with ``outstanding`` bursts in flight.

    Who wants to be served is registered, then a port is chosen, then its burst, which is issued in
    the next cycle or later. Beats are registered on their way to their queue.

    Parameters
    ----------
    config
        The overlay's configuration.
    depths
        Name of each port and the depth of its queue in beats.

    Members
    -------
    <name> : In(ReadPort)
        One for each port.
    addr, len, addr_valid, addr_ready; data, resp, last, data_valid, data_ready
        The AR and R channels.
    drain : In(1)
        Issue no further bursts.
    quiet : Out(1)
        No burst is in flight or offered, and none will be while ``drain`` lasts.
    beat : Out
        One bit a port: a beat of it arrives in this cycle.
    waiting : Out(1)
        Bursts are in flight and no beat arrives.
    """

    def __init__(self, config: OverlayConfig, depths: dict[str, int]):
        self.config = config
        self.depths = depths
        super().__init__(
            {
                **{name: In(ReadPort(config)) for name in depths},
                "addr": Out(config.address_bits),
                "len": Out(8),
                "addr_valid": Out(1),
                "addr_ready": In(1),
                "data": In(config.bus_bytes * 8),
                "resp": In(2),
                "last": In(1),
                "data_valid": In(1),
                "data_ready": Out(1),
                "drain": In(1),
                "quiet": Out(1),
                "beat": Out(len(depths)),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        queues = []
        for name, depth in self.depths.items():
            m.submodules[name] = queue = ReadQueue(self.config, depth=depth)
            connect(m, flipped(getattr(self, name)), queue.port)
            queues.append(queue)

        # The order of bursts in flight: whose they are, and whether they end a request.
        entry = data.StructLayout({"port": ceil_log2(max(2, len(queues))), "last": 1})
        m.submodules.order = order = SyncFIFOBuffered(
            width=Shape.cast(entry).width, depth=self.config.outstanding
        )
        issue = Signal(data.StructLayout({"valid": 1, "addr": self.config.address_bits, "len": 8}))
        free, found, settled, room = Signal(), Signal(), Signal(), Signal()
        draining = delay(m, self.drain, 1)  # it comes from far
        m.d.sync += [room.eq(order.w_rdy), settled.eq(found & ~free)]
        m.d.comb += [
            self.addr.eq(issue.addr),
            self.len.eq(issue.len),
            self.addr_valid.eq(issue.valid),
            # Not in the cycle in which the last one is taken: `addr_ready` comes from far.
            free.eq(~issue.valid & room & ~draining & settled),
        ]
        with m.If(self.addr_ready):
            m.d.sync += issue.valid.eq(0)

        # In turn: the first port behind the one that was served last. That one is still among those
        # that want when it is served.
        wanting = Cat(queue.burst.valid for queue in queues)
        behind, turn, wants = (Signal(len(queues), name=n) for n in ("behind", "turn", "wants"))
        burst = Signal(burst_layout(self.config), reset_less=True)  # of the port whose turn it is
        port = Signal(entry["port"].shape)
        others = Signal(len(queues))
        m.d.comb += others.eq(wants & ~turn)
        m.d.sync += [
            wants.eq(Mux((wanting & behind).any(), wanting & behind, wanting)),
            Value.cast(burst).eq(selected(turn, (Value.cast(q.burst.p) for q in queues))),
            port.eq(selected(turn, (C(index, len(port)) for index in range(len(queues))))),
        ]
        with m.If(~found):
            m.d.sync += [turn.eq(lowest(others)), found.eq(others.any())]
        with m.Elif(free):
            m.d.sync += [
                found.eq(0),
                behind.eq(~((turn << 1) - 1)),
                issue.valid.eq(1),
                issue.addr.eq(burst.addr),
                issue.len.eq(burst.beats - 1),
            ]
        m.d.comb += [
            order.w_data.eq(Cat(port, burst.last)),
            order.w_en.eq(free),
            *(queue.burst.ready.eq(turn[index] & free) for index, queue in enumerate(queues)),
        ]

        head, arrives = Signal(entry), Signal()
        error = self.resp[1]  # A3.4.4: SLVERR and DECERR have this bit set
        beat = Signal(beat_layout(self.config), reset_less=True)
        m.d.comb += [
            head.eq(order.r_data),
            self.data_ready.eq(order.r_rdy),
            arrives.eq(self.data_valid & order.r_rdy),
            order.r_en.eq(arrives & self.last),
            self.waiting.eq(order.level.any() & ~arrives),
        ]
        m.d.sync += [
            self.beat.eq(arrives << head.port),
            beat.data.eq(Mux(error, 0, self.data)),
            beat.error.eq(error),
            beat.last.eq(self.last & head.last),
            self.quiet.eq(draining & ~order.level.any() & ~issue.valid & ~self.beat.any()),
        ]
        for index, queue in enumerate(queues):
            m.d.comb += [queue.beat.valid.eq(self.beat[index]), queue.beat.p.eq(beat)]
        return m


def connect_axi_read(m: Module, channel: ReadChannel, axi, config: OverlayConfig) -> None:
    """Join a read channel to the AR and R channels of an `Axi4` manager."""
    m.d.comb += [
        axi.araddr.eq(channel.addr),
        axi.arlen.eq(channel.len),
        axi.arsize.eq(exact_log2(config.bus_bytes)),
        axi.arburst.eq(BURST_INCR),
        axi.arvalid.eq(channel.addr_valid),
        channel.addr_ready.eq(axi.arready),
        channel.data.eq(axi.rdata),
        channel.resp.eq(axi.rresp),
        channel.last.eq(axi.rlast),
        channel.data_valid.eq(axi.rvalid),
        axi.rready.eq(channel.data_ready),
    ]
