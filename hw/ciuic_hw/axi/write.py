"""The write side of the AXI master: several write ports share one AW, W and B channel."""

from amaranth.hdl import *
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig

from ..streams import SkidBuffer, delay
from .bus import BURST_INCR, MAX_BURST_BEATS
from .ports import WritePort, lowest
from .splitter import BurstSplitter

__all__ = ["WriteChannel", "connect_axi_write"]


class WriteChannel(Component):
    """Serve several write ports; earlier ports go first, bursts of one are never interleaved.

    Parameters
    ----------
    config
        The overlay's configuration.
    names
        Name of each port.

    Members
    -------
    <name> : In(WritePort)
        One for each port.
    addr, len, addr_valid, addr_ready; data, strb, last, data_valid, data_ready; resp, resp_valid
        The AW, W and B channels; answers are always taken.
    drain : In(1)
        Issue no further bursts, and end those that are issued with beats that write nothing.
    quiet : Out(1)
        No burst is in flight or offered, and none will be while ``drain`` lasts.
    beat : Out
        One bit a port: a beat of it is taken by the memory in this cycle.
    waiting : Out(1)
        A beat or an address is offered and not taken.
    """

    def __init__(self, config: OverlayConfig, names: tuple[str, ...]):
        self.config = config
        self.names = names
        super().__init__(
            {
                **{name: In(WritePort(config)) for name in names},
                "addr": Out(config.address_bits),
                "len": Out(8),
                "addr_valid": Out(1),
                "addr_ready": In(1),
                "data": Out(config.bus_bytes * 8),
                "strb": Out(config.bus_bytes),
                "last": Out(1),
                "data_valid": Out(1),
                "data_ready": In(1),
                "resp": In(2),
                "resp_valid": In(1),
                "drain": In(1),
                "quiet": Out(1),
                "beat": Out(len(names)),
                "waiting": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        port_bits = ceil_log2(max(2, len(self.names)))

        splitters, datas = [], []
        for name in self.names:
            splitter = BurstSplitter(config, max_burst=MAX_BURST_BEATS)
            m.submodules[f"{name}_splitter"] = splitter
            connect(m, flipped(getattr(self, name).request), splitter.request)
            splitters.append(splitter)
            m.submodules[f"{name}_data"] = skid = SkidBuffer(config.bus_bytes * 8)
            connect(m, flipped(getattr(self, name).data), skid.i)
            datas.append(skid.o)

        # Bursts whose address was issued, on their way through the W channel.
        burst = data.StructLayout(
            {"port": port_bits, "len": 8, "tail": exact_log2(config.bus_bytes), "last": 1}
        )
        m.submodules.issued = issued = SyncFIFOBuffered(width=Shape.cast(burst).width, depth=4)
        # Bursts whose answer is still to come.
        m.submodules.order = order = SyncFIFOBuffered(width=port_bits, depth=config.outstanding)

        # AW: choose a burst in one cycle, issue it in the next or later.
        free, issue, chosen, room = Signal(), Signal(), Signal(), Signal()
        wanting, turn = Signal(len(splitters)), Signal(len(splitters))
        new = Signal(burst)
        m.d.comb += [
            free.eq((~self.addr_valid | self.addr_ready) & room & ~self.drain),
            wanting.eq(Cat(splitter.burst.valid for splitter in splitters)),
            issue.eq(free & chosen),
            issued.w_data.eq(new),
            issued.w_en.eq(issue),
            order.w_data.eq(new.port),
            order.w_en.eq(issue),
        ]
        with m.If(self.addr_ready):
            m.d.sync += self.addr_valid.eq(0)
        m.d.sync += room.eq(issued.w_rdy & order.w_rdy)
        with m.If(~chosen):
            m.d.sync += [turn.eq(lowest(wanting)), chosen.eq(wanting.any())]
        with m.Elif(free):
            m.d.sync += [chosen.eq(0), self.addr_valid.eq(1)]
        for index, splitter in enumerate(splitters):
            m.d.comb += splitter.burst.ready.eq(turn[index] & issue)
            with m.If(turn[index]):
                m.d.comb += [
                    new.port.eq(index),
                    new.len.eq(splitter.burst.p.beats - 1),
                    new.tail.eq(splitter.burst.p.tail),
                    new.last.eq(splitter.burst.p.last),
                ]
                with m.If(issue):
                    m.d.sync += [self.addr.eq(splitter.burst.p.addr), self.len.eq(new.len)]

        # W: move the burst's beats.
        head = Signal(burst)
        sent = Signal(8)
        final = Signal()
        valid, beat_data = Signal(), Signal(config.bus_bytes * 8)
        taken = Signal()
        m.d.comb += [head.eq(issued.r_data), final.eq(sent == head.len)]
        free_slot = Signal()
        m.d.comb += free_slot.eq(~self.data_valid | self.data_ready)
        for index, port in enumerate(datas):
            mine = issued.r_rdy & (head.port == index)
            m.d.comb += port.ready.eq(mine & free_slot & ~self.drain)
            with m.If(mine):
                m.d.comb += [valid.eq(port.valid | self.drain), beat_data.eq(port.p)]
        m.d.comb += [
            taken.eq(valid & free_slot),
            issued.r_en.eq(taken & final),
        ]
        owner = Signal(port_bits)
        with m.If(free_slot):
            strb = Signal(config.bus_bytes)
            m.d.comb += strb.eq(
                Mux(final & head.last, (2 << head.tail) - 1, (1 << config.bus_bytes) - 1)
            )
            m.d.sync += [
                owner.eq(head.port),
                self.data_valid.eq(valid),
                self.data.eq(beat_data),
                self.strb.eq(Mux(self.drain, 0, strb)),
                self.last.eq(final),
            ]
            with m.If(valid):
                m.d.sync += sent.eq(Mux(final, 0, sent + 1))

        # B: tell the port.
        m.d.comb += order.r_en.eq(self.resp_valid)
        for index, (name, splitter) in enumerate(zip(self.names, splitters, strict=True)):
            port = getattr(self, name)
            owed = Signal(range(config.outstanding + 8), name=f"{name}_owed")
            owes = delay(m, issue & turn[index], 1)
            answer = self.resp_valid & order.r_rdy & (order.r_data == index)
            m.d.sync += owed.eq(owed + owes - answer)
            m.d.comb += [
                port.busy.eq(~splitter.request.ready | splitter.burst.valid | owes | owed.any()),
                port.error.eq(answer & self.resp[1]),  # A3.4.4: SLVERR, DECERR
            ]

        m.d.comb += [
            self.beat.eq((self.data_valid & self.data_ready) << owner),
            self.waiting.eq(
                self.data_valid & ~self.data_ready | self.addr_valid & ~self.addr_ready
            ),
        ]
        m.d.sync += self.quiet.eq(
            self.drain & ~self.addr_valid & ~self.data_valid & ~order.level.any()
        )
        return m


def connect_axi_write(m: Module, channel: WriteChannel, axi, config: OverlayConfig) -> None:
    """Join a write channel to the AW, W and B channels of an `Axi4` manager."""
    m.d.comb += [
        axi.awaddr.eq(channel.addr),
        axi.awlen.eq(channel.len),
        axi.awsize.eq(exact_log2(config.bus_bytes)),
        axi.awburst.eq(BURST_INCR),
        axi.awvalid.eq(channel.addr_valid),
        channel.addr_ready.eq(axi.awready),
        axi.wdata.eq(channel.data),
        axi.wstrb.eq(channel.strb),
        axi.wlast.eq(channel.last),
        axi.wvalid.eq(channel.data_valid),
        channel.data_ready.eq(axi.wready),
        channel.resp.eq(axi.bresp),
        channel.resp_valid.eq(axi.bvalid),
        axi.bready.eq(1),
    ]
