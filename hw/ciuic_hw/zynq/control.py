"""From the processors to registers: AXI3 in, AXI4-Lite out to whichever block is addressed."""

from collections.abc import Mapping

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import Region

from ..axi.bus import Axi4Lite
from ..axi.offer import offer
from .axi3 import BURST_FIXED, BURST_WRAP, DECERR, Axi3

__all__ = ["ID_BITS", "ControlBridge"]

ID_BITS = 12  # of M_AXI_GP0: AMD UG585, table 5-5


class ControlBridge(Component):
    """Turn bursts of the processors into accesses to registers, one at a time.

    Parameters
    ----------
    regions
        Name of a block of registers -> its addresses; a power of two bytes, aligned.

    Members
    -------
    axi3 : In(Axi3)
        The processors. Beats of 32 bits or less.
    <name> : Out(Axi4Lite)
        A block of registers; addresses are relative to it. A beat whose address is in no block
        is answered with DECERR and reads as zero.

    Latency
    -------
    Four cycles a beat, beside those of the block.
    """

    def __init__(self, regions: Mapping[str, Region]):
        for name, region in regions.items():
            if region.base % region.span or region.span & (region.span - 1):
                raise ValueError(
                    f"{name} must be a power of two bytes, aligned, not {region.span:#x} "
                    f"at {region.base:#x}"
                )
        self.regions = dict(regions)
        super().__init__(
            {
                "axi3": In(Axi3(bus_bytes=4, address_bits=32, id_bits=ID_BITS)),
                **{
                    name: Out(Axi4Lite(address_bits=exact_log2(region.span)))
                    for name, region in regions.items()
                },
            }
        )

    def elaborate(self, platform):
        m = Module()
        axi3 = self.axi3
        addr, kind, size, prot = Signal(32), Signal(2), Signal(3), Signal(3)
        beats, identifier = Signal(4), Signal(ID_BITS)  # beats behind the one at hand
        mask = Signal(7)  # A3.4.1: where a wrapping burst comes back to its start
        answer, error = Signal(2), Signal(2)
        prefer_read = Signal()

        step = Signal(32)
        with m.Switch(kind):
            with m.Case(BURST_FIXED):
                m.d.comb += step.eq(addr)
            with m.Case(BURST_WRAP):
                onward = (addr + (1 << size))[: len(mask)]
                m.d.comb += step.eq(
                    Cat(addr[: len(mask)] & ~mask | onward & mask, addr[len(mask) :])
                )
            with m.Default():
                m.d.comb += step.eq(addr + (1 << size))

        chosen = {name: Signal(name=f"at_{name}") for name in self.regions}
        for name, region in self.regions.items():
            low = exact_log2(region.span)
            lite = getattr(self, name)
            m.d.comb += [
                chosen[name].eq(addr[low:] == region.base >> low),
                lite.awaddr.eq(addr),
                lite.araddr.eq(addr),
                lite.awprot.eq(prot),
                lite.arprot.eq(prot),
            ]
        anywhere = Cat(chosen.values()).any()

        word, strobes, final = Signal(32), Signal(4), Signal()
        m.d.comb += [axi3.bid.eq(identifier), axi3.rid.eq(identifier)]
        for name in self.regions:
            m.d.comb += [getattr(self, name).wdata.eq(word), getattr(self, name).wstrb.eq(strobes)]

        def take(channel):
            return [
                addr.eq(getattr(axi3, f"{channel}addr")),
                kind.eq(getattr(axi3, f"{channel}burst")),
                size.eq(getattr(axi3, f"{channel}size")),
                prot.eq(getattr(axi3, f"{channel}prot")),
                beats.eq(getattr(axi3, f"{channel}len")),
                identifier.eq(getattr(axi3, f"{channel}id")),
                mask.eq(
                    ((getattr(axi3, f"{channel}len") + 1) << getattr(axi3, f"{channel}size")) - 1
                ),
                error.eq(0),
            ]

        buses = [(getattr(self, name), here) for name, here in chosen.items()]

        def ask(channels, *, then, outside):
            """Offer a request to the chosen block; where there is none, answer for it."""
            offer(m, buses, channels, then=then)
            with m.If(~anywhere):
                m.d.sync += [answer.eq(DECERR), word.eq(0)]
                m.next = outside

        with m.FSM():
            with m.State("IDLE"):
                with m.If(axi3.awvalid & ~(prefer_read & axi3.arvalid)):
                    m.d.comb += axi3.awready.eq(1)
                    m.d.sync += [*take("aw"), prefer_read.eq(1)]
                    m.next = "BEAT"
                with m.Elif(axi3.arvalid):
                    m.d.comb += axi3.arready.eq(1)
                    m.d.sync += [*take("ar"), prefer_read.eq(0)]
                    m.next = "READ"
            with m.State("BEAT"):  # take a beat to write
                m.d.comb += axi3.wready.eq(1)
                m.d.sync += [word.eq(axi3.wdata), strobes.eq(axi3.wstrb), final.eq(axi3.wlast)]
                with m.If(axi3.wvalid):
                    m.next = "WRITE"
            with m.State("WRITE"):
                ask(("aw", "w"), then="WRITTEN", outside="COUNT")
            with m.State("WRITTEN"):
                for lite, here in buses:
                    with m.If(here):
                        m.d.comb += lite.bready.eq(1)
                        m.d.sync += answer.eq(lite.bresp)
                        with m.If(lite.bvalid):
                            m.next = "COUNT"
            with m.State("COUNT"):
                m.d.sync += [error.eq(error | answer), addr.eq(step)]
                m.next = "BEAT"
                with m.If(final):
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [axi3.bvalid.eq(1), axi3.bresp.eq(error)]
                with m.If(axi3.bready):
                    m.next = "IDLE"
            with m.State("READ"):
                ask(("ar",), then="GOT", outside="DELIVER")
            with m.State("GOT"):
                for lite, here in buses:
                    with m.If(here):
                        m.d.comb += lite.rready.eq(1)
                        m.d.sync += [answer.eq(lite.rresp), word.eq(lite.rdata)]
                        with m.If(lite.rvalid):
                            m.next = "DELIVER"
            with m.State("DELIVER"):
                m.d.comb += [
                    axi3.rvalid.eq(1),
                    axi3.rdata.eq(word),
                    axi3.rresp.eq(answer),
                    axi3.rlast.eq(beats == 0),
                ]
                with m.If(axi3.rready):
                    m.d.sync += [beats.eq(beats - 1), addr.eq(step)]
                    m.next = "READ"
                    with m.If(axi3.rlast):
                        m.next = "IDLE"
        return m
