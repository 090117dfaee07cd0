"""From a memory port of the overlay to one of the processing system: long bursts become short."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ..axi.bus import BURST_INCR, Axi4
from .axi3 import MAX_BURST_BEATS, NORMAL_MEMORY, Axi3

__all__ = ["ID_BITS", "Axi3Bridge", "BurstCutter"]

ID_BITS = 6  # of S_AXI_HP0 to S_AXI_HP3: AMD UG585, table 5-6
PIECES = 32  # short bursts in flight, each direction


def long_burst(address_bits):
    """Return an AXI4 burst: address, beats less one."""
    return data.StructLayout({"addr": address_bits, "len": 8})


def short_burst(address_bits):
    """Return an AXI3 burst: address, beats less one, whether it is the last of its AXI4 burst."""
    return data.StructLayout({"addr": address_bits, "len": 4, "last": 1})


class BurstCutter(Component):
    """Cut incrementing bursts of up to 256 beats into pieces.

    Parameters
    ----------
    bus_bytes
        Width of the data in bytes.
    address_bits
        Width of an address in bits.
    most_beats
        Beats of the longest piece, a power of two up to 16.

    Members
    -------
    i : In(stream)
        See `long_burst`.
    o : Out(stream)
        See `short_burst`. All but the last of a burst have ``most_beats`` beats.

    Latency
    -------
    One cycle. A piece a cycle.
    """

    def __init__(self, *, bus_bytes: int, address_bits: int, most_beats: int = MAX_BURST_BEATS):
        self.bus_bytes = bus_bytes
        self.most_beats = most_beats
        super().__init__(
            {
                "i": In(stream.Signature(long_burst(address_bits))),
                "o": Out(stream.Signature(short_burst(address_bits))),
            }
        )

    def elaborate(self, platform):
        m = Module()
        more, left = Signal.like(self.i.p.addr, name="addr"), Signal(8)
        beats, low = self.most_beats, exact_log2(self.bus_bytes)
        m.d.comb += [
            self.o.p.addr.eq(more),
            self.o.p.last.eq(left < beats),
            self.o.p.len.eq(Mux(self.o.p.last, left, beats - 1)),
            self.i.ready.eq(~self.o.valid | (self.o.ready & self.o.p.last)),
        ]
        with m.If(self.i.ready):
            m.d.sync += [
                self.o.valid.eq(self.i.valid),
                more.eq(self.i.p.addr),
                left.eq(self.i.p.len),
            ]
        with m.Elif(self.o.ready):
            # Beats behind the first are aligned, whatever the first is.
            m.d.sync += [more.eq(Cat(Const(0, low), more[low:] + beats)), left.eq(left - beats)]
        return m


class Axi3Bridge(Component):
    """An AXI4 subordinate before an AXI3 port. Errors of a piece are those of its burst.

    Parameters
    ----------
    bus_bytes
        Width of the data in bytes.
    address_bits
        Width of an address in bits.

    Members
    -------
    axi4 : In(Axi4)
        Incrementing bursts of full beats.
    axi3 : Out(Axi3)
        The same in pieces, all with identifier 0, so that answers come in order.

    Latency
    -------
    One cycle for addresses, none for beats and answers.
    """

    def __init__(self, *, bus_bytes: int, address_bits: int):
        self.bus_bytes = bus_bytes
        self.address_bits = address_bits
        shape = {"bus_bytes": bus_bytes, "address_bits": address_bits}
        super().__init__({"axi4": In(Axi4(**shape)), "axi3": Out(Axi3(**shape, id_bits=ID_BITS))})

    def elaborate(self, platform):
        m = Module()
        axi4, axi3 = self.axi4, self.axi3
        reads = self._addresses(m, "ar")
        writes = self._addresses(m, "aw")

        last_read = Signal()
        m.d.comb += [
            axi4.rdata.eq(axi3.rdata),
            axi4.rresp.eq(axi3.rresp),
            last_read.eq(reads.r_data[0]),
            axi4.rlast.eq(axi3.rlast & last_read),
            axi4.rvalid.eq(axi3.rvalid & reads.r_rdy),
            axi3.rready.eq(axi4.rready & reads.r_rdy),
            reads.r_en.eq(axi3.rvalid & axi3.rready & axi3.rlast),
        ]

        beat = Signal(exact_log2(MAX_BURST_BEATS))  # of a piece
        m.d.comb += [
            axi3.wdata.eq(axi4.wdata),
            axi3.wstrb.eq(axi4.wstrb),
            axi3.wlast.eq(axi4.wlast | beat.all()),
            axi3.wvalid.eq(axi4.wvalid),
            axi4.wready.eq(axi3.wready),
        ]
        with m.If(axi3.wvalid & axi3.wready):
            m.d.sync += beat.eq(Mux(axi4.wlast, 0, beat + 1))

        # A burst is answered with its last piece; the errors of the others are kept till then.
        last_write, errors = Signal(), Signal(2)
        m.d.comb += [
            last_write.eq(writes.r_data[0]),
            axi4.bresp.eq(axi3.bresp | errors),
            axi4.bvalid.eq(axi3.bvalid & writes.r_rdy & last_write),
            axi3.bready.eq(writes.r_rdy & (axi4.bready | ~last_write)),
            writes.r_en.eq(axi3.bvalid & axi3.bready),
        ]
        with m.If(writes.r_en):
            m.d.sync += errors.eq(Mux(last_write, 0, axi4.bresp))
        return m

    def _addresses(self, m, channel):
        """Cut the bursts of a channel; return the FIFO of which piece is the last of its burst."""
        cutter = BurstCutter(bus_bytes=self.bus_bytes, address_bits=self.address_bits)
        flags = SyncFIFOBuffered(width=1, depth=PIECES)
        m.submodules[f"{channel}_cutter"] = cutter
        m.submodules[f"{channel}_flags"] = flags
        here = {name: getattr(self.axi4, channel + name) for name in ("addr", "len")}
        there = {name: getattr(self.axi3, channel + name) for name in Axi3Bridge._DRIVEN}
        m.d.comb += [
            cutter.i.p.addr.eq(here["addr"]),
            cutter.i.p.len.eq(here["len"]),
            cutter.i.valid.eq(getattr(self.axi4, f"{channel}valid")),
            getattr(self.axi4, f"{channel}ready").eq(cutter.i.ready),
            there["addr"].eq(cutter.o.p.addr),
            there["len"].eq(cutter.o.p.len),
            there["size"].eq(exact_log2(self.bus_bytes)),
            there["burst"].eq(BURST_INCR),
            there["cache"].eq(NORMAL_MEMORY),
            there["valid"].eq(cutter.o.valid & flags.w_rdy),
            cutter.o.ready.eq(getattr(self.axi3, f"{channel}ready") & flags.w_rdy),
            flags.w_data.eq(cutter.o.p.last),
            flags.w_en.eq(cutter.o.valid & cutter.o.ready),
        ]
        return flags

    _DRIVEN = ("addr", "len", "size", "burst", "cache", "valid")
