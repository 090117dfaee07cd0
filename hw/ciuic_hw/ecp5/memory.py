"""Block RAM behind AXI4: all the memory of a board that has no DRAM, or whose DRAM is not used."""

from amaranth.hdl import *
from amaranth.lib import data
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In
from amaranth.utils import exact_log2

from ..axi.bus import Axi4
from ..axi.ports import lowest
from ..streams import PipelineFifo, delay

__all__ = ["OnChipMemory"]

WORDS_WAITING = 16  # that were read and not taken
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
    Nine cycles from an address to its first beat; a beat a cycle.
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
        # A burst is chosen in one cycle and taken in the next: managers are far apart.
        turn = Signal(self.managers, name=f"{channel}_turn")
        valid = Cat(getattr(port, f"{channel}valid") for port in ports)
        m.d.sync += turn.eq(Mux(idle & ~turn.any(), lowest(valid), 0))
        m.d.comb += taken.eq(turn.any())
        for index, port in enumerate(ports):
            addr = getattr(port, f"{channel}addr")
            m.d.comb += getattr(port, f"{channel}ready").eq(turn[index])
            with m.If(turn[index]):
                m.d.sync += [
                    manager.eq(index),
                    word.eq(addr[low:high]),
                    outside.eq(addr[high:].any()),
                    beats.eq(getattr(port, f"{channel}len")),
                ]
        return ports, manager, word, beats, outside, taken

    def _reads(self, m, memory):
        # A word is asked for, comes from the block RAM, waits in its output register, and is stored
        # for its manager: in a FIFO with room for all that is asked for, so that no `ready` has to
        # reach the RAM.
        asking = Signal()
        ports, manager, word, beats, outside, taken = self._burst(m, "ar", ~asking)
        m.submodules.results = results = PipelineFifo(
            data.StructLayout(
                {"data": len(memory.data), "refused": 1, "last": 1, "manager": len(manager)}
            ),
            depth=WORDS_WAITING,
            latency=2,
        )
        ask = Signal()
        m.d.comb += [
            ask.eq(asking & results.room),
            memory.addr.eq(word),
            memory.en.eq(1),
            results.payload.data.eq(delay(m, memory.data, 1, reset_less=True)),
            results.valid.eq(delay(m, ask, 2)),
        ]
        for name, value in (("refused", outside), ("last", beats == 0), ("manager", manager)):
            late = delay(m, value, 2, reset_less=True)
            m.d.comb += getattr(results.payload, name).eq(late)
        out = results.o.p
        for index, port in enumerate(ports):
            with m.If(out.manager == index):
                m.d.comb += [port.rvalid.eq(results.o.valid), results.o.ready.eq(port.rready)]
            m.d.comb += [
                port.rdata.eq(Mux(out.refused, 0, out.data)),
                port.rlast.eq(out.last),
                port.rresp.eq(Mux(out.refused, DECERR, 0)),
            ]
        with m.If(ask):
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
