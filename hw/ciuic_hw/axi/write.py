"""The write side of the AXI master: several write ports share one AW, W and B channel."""

from amaranth.hdl import *
from amaranth.lib import data
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2, exact_log2

from ciuic.abi import OverlayConfig

from ..streams import SkidBuffer, delay
from .bus import BURST_INCR, MAX_BURST_BEATS
from .ports import WritePort, lowest, selected
from .splitter import BurstSplitter, burst_layout

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
        owner = data.StructLayout({"port": port_bits, "last": 1})
        m.submodules.order = order = SyncFIFOBuffered(
            width=Shape.cast(owner).width, depth=config.outstanding
        )

        # AW: choose a burst, look at it, and issue it: a cycle each, or more.
        free, issue, room = Signal(), Signal(), Signal()
        chosen, settled = Signal(), Signal()
        wanting, turn = Signal(len(splitters)), Signal(len(splitters))
        coming = Signal(burst_layout(config), reset_less=True)
        new = Signal(burst)
        bursts = [Value.cast(splitter.burst.p) for splitter in splitters]
        m.d.comb += [
            # Not in the cycle in which the last one is taken: `addr_ready` comes from far.
            free.eq(~self.addr_valid & room & ~self.drain),
            wanting.eq(Cat(splitter.burst.valid for splitter in splitters)),
            issue.eq(free & settled),
            new.len.eq(coming.beats - 1),
            new.tail.eq(coming.tail),
            new.last.eq(coming.last),
            issued.w_data.eq(new),
            issued.w_en.eq(issue),
            order.w_data.eq(Cat(new.port, new.last)),
            order.w_en.eq(issue),
        ]
        with m.If(self.addr_ready):
            m.d.sync += self.addr_valid.eq(0)
        numbers = (C(index, port_bits) for index in range(len(splitters)))
        m.d.sync += [
            room.eq(issued.w_rdy & order.w_rdy),
            settled.eq(chosen & ~issue),
            Value.cast(coming).eq(selected(turn, bursts)),
            new.port.eq(selected(turn, numbers)),
        ]
        with m.If(~chosen):
            m.d.sync += [turn.eq(lowest(wanting)), chosen.eq(wanting.any())]
        with m.Elif(issue):
            m.d.sync += [chosen.eq(0), self.addr_valid.eq(1)]
        with m.If(issue):
            m.d.sync += [self.addr.eq(coming.addr), self.len.eq(new.len)]
        for index, splitter in enumerate(splitters):
            m.d.comb += splitter.burst.ready.eq(turn[index] & issue)

        # W: move the burst's beats. What is needed of them is found out a beat ahead.
        head, new_head = Signal(burst), Signal()
        m.submodules.next = following = SkidBuffer(burst)
        m.d.comb += [
            Value.cast(following.i.p).eq(issued.r_data),
            following.i.valid.eq(issued.r_rdy),
            issued.r_en.eq(following.i.ready),
            head.eq(following.o.p),
            following.o.ready.eq(new_head),
        ]
        mine, active = Signal(len(datas)), Signal()  # whose burst it is, if there is one
        # The same for data, whose many bits are elsewhere; synthesis does not make it one with
        # `mine`, as its reset differs.
        source = Signal(len(datas), init=1)
        draining = delay(m, self.drain, 1)  # it comes from far
        left = Signal(8)  # beats behind this one
        final, ends = Signal(), Signal()  # last beat of the burst, and of its request
        tail = Signal(config.bus_bytes)
        beat = data.StructLayout(
            {"data": config.bus_bytes * 8, "strb": config.bus_bytes, "last": 1, "owner": len(datas)}
        )
        m.submodules.output = output = SkidBuffer(beat)
        taken = Signal()
        m.d.comb += [
            output.i.p.data.eq(selected(source, (port.p for port in datas))),
            output.i.p.strb.eq(Mux(draining, 0, Mux(final & ends, tail, -1))),
            output.i.p.last.eq(final),
            output.i.p.owner.eq(mine),
            output.i.valid.eq(
                (mine & Cat(port.valid for port in datas)).any() | (active & draining)
            ),
            taken.eq(output.i.valid & output.i.ready),
            new_head.eq(~active | (taken & final)),
            self.data.eq(output.o.p.data),
            self.strb.eq(output.o.p.strb),
            self.last.eq(output.o.p.last),
            self.data_valid.eq(output.o.valid),
            output.o.ready.eq(self.data_ready),
        ]
        for index, port in enumerate(datas):
            m.d.comb += port.ready.eq(mine[index] & output.i.ready & ~draining)
        with m.If(new_head):
            m.d.sync += [
                active.eq(following.o.valid),
                mine.eq(Mux(following.o.valid, 1 << head.port, 0)),
                source.eq(Mux(following.o.valid, 1 << head.port, 0)),
                left.eq(head.len),
                final.eq(head.len == 0),
                ends.eq(head.last),
                tail.eq((2 << head.tail) - 1),
            ]
        with m.Elif(taken):
            m.d.sync += [left.eq(left - 1), final.eq(left == 1)]

        # B: find out whose answer it is, as answers come from far, and tell the port.
        answers, refused = delay(m, self.resp_valid, 1), delay(m, self.resp[1], 2)
        m.d.comb += order.r_en.eq(answers)
        answered = owner(order.r_data)
        last = delay(m, answered.last, 1)
        for index, (name, splitter) in enumerate(zip(self.names, splitters, strict=True)):
            port = getattr(self, name)
            owed = Signal(range(config.outstanding + 8), name=f"{name}_owed")
            owes = delay(m, issue & turn[index], 1)
            answer = delay(m, answers & order.r_rdy & (answered.port == index), 1)
            m.d.sync += owed.eq(owed + owes - answer)
            m.d.comb += [
                port.busy.eq(~splitter.request.ready | splitter.burst.valid | owes | owed.any()),
                port.acknowledged.eq(answer & last),
                port.error.eq(answer & refused),  # A3.4.4: SLVERR, DECERR
            ]

        m.d.comb += [
            self.beat.eq(Mux(self.data_valid & self.data_ready, output.o.p.owner, 0)),
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
