"""From a serial line to registers and memory: the requests of `ciuic.abi.serial`."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import serial

from ..axi.bus import BURST_INCR, Axi4, Axi4Lite
from ..axi.offer import offer

__all__ = ["SerialBridge"]


class SerialBridge(Component):
    """Serve requests, one after the other.

    Parameters
    ----------
    bus_bytes, address_bits
        Of the memory.
    register_bits
        Width of a register's address in bits.

    Members
    -------
    i : In(stream)
        Bytes from the host.
    o : Out(stream)
        Bytes to it.
    registers : Out(Axi4Lite)
        From `serial.REGISTERS_BASE` on.
    memory : Out(Axi4)
        From zero on; single beats, of which a request writes 32 bits.

    Latency
    -------
    Three cycles between the last byte of a request and the first of its answer, beside those of
    registers or memory.
    """

    def __init__(self, *, bus_bytes: int, address_bits: int, register_bits: int):
        self.bus_bytes = bus_bytes
        super().__init__(
            {
                "i": In(stream.Signature(8)),
                "o": Out(stream.Signature(8)),
                "registers": Out(Axi4Lite(address_bits=register_bits)),
                "memory": Out(Axi4(bus_bytes=bus_bytes, address_bits=address_bits)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        write, addr, word = Signal(), Signal(32), Signal(32)
        left = Signal(range(serial.WORD_BYTES))  # bytes behind the one at hand
        answer = Signal(8)
        here = {True: Signal(name="at_registers"), False: Signal(name="at_memory")}
        m.d.comb += [
            here[True].eq(addr >= serial.REGISTERS_BASE),
            here[False].eq(~here[True]),
        ]
        buses = ((self.registers, here[True]), (self.memory, here[False]))
        words = self.bus_bytes // serial.WORD_BYTES
        place = addr[exact_log2(serial.WORD_BYTES) : exact_log2(self.bus_bytes)]
        size = exact_log2(self.bus_bytes)
        m.d.comb += [
            self.registers.wdata.eq(word),
            self.registers.wstrb.eq(-1),
            self.memory.wdata.eq(word.replicate(words)),
            self.memory.wstrb.word_select(place, serial.WORD_BYTES).eq(-1),
            self.memory.wlast.eq(1),
        ]
        for channel in ("aw", "ar"):
            m.d.comb += [
                getattr(self.registers, f"{channel}addr").eq(addr),
                getattr(self.memory, f"{channel}addr").eq(addr & -self.bus_bytes),
                getattr(self.memory, f"{channel}size").eq(size),
                getattr(self.memory, f"{channel}burst").eq(BURST_INCR),
            ]

        with m.FSM():
            with m.State("COMMAND"):
                m.d.comb += self.i.ready.eq(1)
                m.d.sync += [write.eq(self.i.payload == serial.WRITE), left.eq(-1)]
                with m.If(self.i.valid):
                    with m.Switch(self.i.payload):
                        with m.Case(serial.READ, serial.WRITE):
                            m.next = "ADDRESS"
            with m.State("ADDRESS"):
                self._take(m, addr, left)
                with m.If(self.i.valid & (left == 0)):
                    m.next = "READ"
                    with m.If(write):
                        m.next = "WORD"
            with m.State("WORD"):
                self._take(m, word, left)
                with m.If(self.i.valid & (left == 0)):
                    m.next = "WRITE"
            with m.State("WRITE"):
                offer(m, buses, ("aw", "w"), then="WRITTEN")
            with m.State("WRITTEN"):
                for bus, chosen in buses:
                    with m.If(chosen):
                        m.d.comb += bus.bready.eq(1)
                        m.d.sync += answer.eq(bus.bresp)
                        with m.If(bus.bvalid):
                            m.next = "ANSWER"
            with m.State("READ"):
                offer(m, buses, ("ar",), then="GOT")
            with m.State("GOT"):
                for bus, chosen in buses:
                    data = bus.rdata if bus is self.registers else bus.rdata.word_select(place, 32)
                    with m.If(chosen):
                        m.d.comb += bus.rready.eq(1)
                        m.d.sync += [answer.eq(bus.rresp), word.eq(data)]
                        with m.If(bus.rvalid):
                            m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(answer)]
                m.d.sync += left.eq(-1)
                with m.If(self.o.ready):
                    m.next = "DELIVER"
                    with m.If(write):
                        m.next = "COMMAND"
            with m.State("DELIVER"):
                m.d.comb += [self.o.valid.eq(1), self.o.payload.eq(word)]
                with m.If(self.o.ready):
                    m.d.sync += [word.eq(word >> 8), left.eq(left - 1)]
                    with m.If(left == 0):
                        m.next = "COMMAND"
        return m

    def _take(self, m, value, left):
        """Take a byte as the next of a value, in four cycles or more."""
        m.d.comb += self.i.ready.eq(1)
        with m.If(self.i.valid):
            m.d.sync += [value.eq(Cat(value[8:], self.i.payload)), left.eq(left - 1)]
