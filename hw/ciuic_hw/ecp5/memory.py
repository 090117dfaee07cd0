"""Block RAM behind AXI4: all the memory of a board that has no DRAM, or whose DRAM is not used."""

from amaranth.hdl import *
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In
from amaranth.utils import exact_log2

from ..axi.bus import Axi4
from ..streams import SkidBuffer

__all__ = ["OnChipMemory"]

DECERR = 0b11  # A3.4.4: nothing is at the address


class OnChipMemory(Component):
    """Memory for several managers, a burst at a time in each direction; the first comes first.

    Parameters
    ----------
    nbytes
        Size, a power of two. Bursts that begin behind it are answered with DECERR; they read as
        zero.
    managers
        How many.
    bus_bytes, address_bits
        Of their ports.

    Members
    -------
    port_<manager> : In(Axi4)
        Incrementing bursts of full beats.

    Latency
    -------
    Four cycles from an address to its first beat; a beat a cycle.
    """

    def __init__(self, *, nbytes: int, managers: int, bus_bytes: int, address_bits: int):
        if nbytes < bus_bytes or nbytes & (nbytes - 1):
            raise ValueError(f"nbytes must be a power of two, {bus_bytes} or more, not {nbytes!r}")
        self.nbytes = nbytes
        self.managers = managers
        self.bus_bytes = bus_bytes
        port = In(Axi4(bus_bytes=bus_bytes, address_bits=address_bits))
        super().__init__({f"port_{manager}": port for manager in range(managers)})

    def elaborate(self, platform):
        m = Module()
        depth = self.nbytes // self.bus_bytes
        m.submodules.memory = memory = Memory(shape=8 * self.bus_bytes, depth=depth, init=[])
        self._reads(m, memory.read_port())
        self._writes(m, memory.write_port(granularity=8))
        return m

    def _burst(self, m, channel, idle):
        """Take a burst of a channel while idle: its manager, address, beats less one, whether out.

        Returns them and whether one is taken.
        """
        ports = [getattr(self, f"port_{manager}") for manager in range(self.managers)]
        low, high = exact_log2(self.bus_bytes), exact_log2(self.nbytes)
        manager = Signal(range(self.managers), name=f"{channel}_manager")
        word = Signal(high - low, name=f"{channel}_word")
        outside, taken = Signal(name=f"{channel}_outside"), Signal(name=f"{channel}_taken")
        beats = Signal(8, name=f"{channel}_beats")
        earlier = 0
        for index, port in enumerate(ports):
            addr, valid = getattr(port, f"{channel}addr"), getattr(port, f"{channel}valid")
            ready = getattr(port, f"{channel}ready")
            m.d.comb += ready.eq(idle & ~earlier)
            with m.If(valid & ready):
                m.d.comb += taken.eq(1)
            with m.If(ready):  # until one is taken it does not matter what is there
                m.d.sync += [
                    manager.eq(index),
                    word.eq(addr[low:high]),
                    outside.eq(addr[high:].any()),
                    beats.eq(getattr(port, f"{channel}len")),
                ]
            earlier |= valid
        return ports, manager, word, beats, outside, taken

    def _reads(self, m, memory):
        # A word is asked for, comes from the block RAM, waits in its output register, and leaves
        # through a buffer, so that no `ready` has to reach the RAM.
        asking, coming, offered, refused = Signal(), Signal(), Signal(), Signal()
        final, last = Signal(), Signal()
        m.submodules.leaving = leaving = SkidBuffer(
            data.StructLayout({"data": len(memory.data), "refused": 1, "last": 1})
        )
        idle = ~(asking | coming | offered | leaving.o.valid)
        ports, manager, word, beats, outside, taken = self._burst(m, "ar", idle)
        waits = Signal.like(memory.data, reset_less=True)  # a reset would keep it out of the RAM
        step, out = Signal(), leaving.o.p
        m.d.comb += [
            step.eq(~offered | leaving.i.ready),
            memory.addr.eq(word),
            memory.en.eq(step),
            leaving.i.valid.eq(offered),
            leaving.i.p.data.eq(waits),
            leaving.i.p.refused.eq(refused),
            leaving.i.p.last.eq(last),
        ]
        for index, port in enumerate(ports):
            with m.If(manager == index):
                m.d.comb += [port.rvalid.eq(leaving.o.valid), leaving.o.ready.eq(port.rready)]
            m.d.comb += [
                port.rdata.eq(Mux(out.refused, 0, out.data)),
                port.rlast.eq(out.last),
                port.rresp.eq(Mux(out.refused, DECERR, 0)),
            ]
        with m.If(step):
            m.d.sync += [
                waits.eq(memory.data),
                refused.eq(outside),
                coming.eq(asking),
                offered.eq(coming),
                final.eq(beats == 0),
                last.eq(final),
            ]
            with m.If(asking):
                m.d.sync += [word.eq(word + 1), beats.eq(beats - 1), asking.eq(beats != 0)]
        with m.If(taken):
            m.d.sync += asking.eq(1)

    def _writes(self, m, memory):
        writing, answering = Signal(), Signal()
        # A beat is written a cycle after it has come: while the burst is answered.
        idle = ~(writing | answering)
        ports, manager, word, _, outside, taken = self._burst(m, "aw", idle)
        m.d.sync += [memory.addr.eq(word), memory.en.eq(0)]
        with m.If(taken):
            m.d.sync += writing.eq(1)
        for index, port in enumerate(ports):
            m.d.comb += port.bresp.eq(Mux(outside, DECERR, 0))
            with m.If(manager == index):
                m.d.comb += [
                    port.wready.eq(writing),
                    port.bvalid.eq(answering),
                ]
                with m.If(writing):
                    m.d.sync += memory.data.eq(port.wdata)
                with m.If(writing & port.wvalid):
                    m.d.sync += [
                        memory.en.eq(Mux(outside, 0, port.wstrb)),
                        word.eq(word + 1),
                        writing.eq(~port.wlast),
                        answering.eq(port.wlast),
                    ]
                with m.If(answering & port.bready):
                    m.d.sync += answering.eq(0)
