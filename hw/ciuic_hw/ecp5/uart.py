"""Bytes over a serial line: a start bit, eight bits from the lowest on, a stop bit."""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import Component, In, Out

__all__ = ["UartReceiver", "UartTransmitter"]

FRAME_BITS = 10


class UartReceiver(Component):
    """Take bytes from a line. A byte without its stop bit is dropped.

    Parameters
    ----------
    divisor
        Cycles of a bit, 4 or more.

    Members
    -------
    rx : In(1)
        The line, high at rest; asynchronous.
    o : Out(stream)
        Bytes; they do not wait.
    """

    def __init__(self, divisor: int):
        if divisor < 4:
            raise ValueError(f"divisor must be 4 or more, not {divisor!r}")
        self.divisor = divisor
        super().__init__({"rx": In(1, init=1), "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform):
        m = Module()
        line = Signal(init=1)
        m.submodules.line = FFSynchronizer(self.rx, line, init=1)
        cycles = Signal(range(self.divisor))  # until a bit is looked at
        bits = Signal(range(FRAME_BITS + 1))  # to come, the one at hand included
        frame = Signal(FRAME_BITS)
        m.d.sync += self.o.valid.eq(0)
        with m.If(bits == 0):
            with m.If(~line):
                m.d.sync += [cycles.eq(self.divisor // 2 - 1), bits.eq(FRAME_BITS)]
        with m.Elif(cycles != 0):
            m.d.sync += cycles.eq(cycles - 1)
        with m.Else():
            taken = Cat(frame[1:], line)
            m.d.sync += [cycles.eq(self.divisor - 1), bits.eq(bits - 1), frame.eq(taken)]
            with m.If(bits == 1):
                m.d.sync += [self.o.valid.eq(line & ~taken[0]), self.o.payload.eq(taken[1:9])]
        return m


class UartTransmitter(Component):
    """Put bytes on a line.

    Parameters
    ----------
    divisor
        Cycles of a bit.

    Members
    -------
    i : In(stream)
        Bytes.
    tx : Out(1)
        The line, high at rest.
    """

    def __init__(self, divisor: int):
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        cycles = Signal(range(self.divisor))
        bits = Signal(range(FRAME_BITS + 1))  # to send, the one at hand included
        frame = Signal(FRAME_BITS, init=-1)
        m.d.comb += [self.i.ready.eq(bits == 0), self.tx.eq(frame[0])]
        with m.If(bits == 0):
            with m.If(self.i.valid):
                m.d.sync += [
                    frame.eq(Cat(0, self.i.payload, 1)),
                    bits.eq(FRAME_BITS),
                    cycles.eq(self.divisor - 1),
                ]
        with m.Elif(cycles != 0):
            m.d.sync += cycles.eq(cycles - 1)
        with m.Else():
            m.d.sync += [
                frame.eq(Cat(frame[1:], 1)),
                bits.eq(bits - 1),
                cycles.eq(self.divisor - 1),
            ]
        return m
