"""A byte at a time from one clock to another, by a handshake of two phases.

Source: C. E. Cummings, Clock Domain Crossing (CDC) Design & Verification Techniques Using
SystemVerilog, SNUG Boston 2008, where it is the closed-loop crossing of several bits.
"""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import Component, In, Out

__all__ = ["Crossing"]


class Crossing(Component):
    """Carry bytes over.

    Parameters
    ----------
    from_domain, to_domain
        The clocks.

    Members
    -------
    i : In(stream)
        Bytes, in ``from_domain``.
    o : Out(stream)
        The same, in ``to_domain``.

    Latency
    -------
    Three cycles of ``to_domain``; the next byte three of ``from_domain`` behind that.
    """

    def __init__(self, *, from_domain: str, to_domain: str):
        self.from_domain = from_domain
        self.to_domain = to_domain
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform):
        m = Module()
        given, taken = Signal(), Signal()  # each turns with a byte
        given_there, taken_here = Signal(), Signal()
        byte = Signal(8)
        m.submodules.given = FFSynchronizer(given, given_there, o_domain=self.to_domain)
        m.submodules.taken = FFSynchronizer(taken, taken_here, o_domain=self.from_domain)
        m.d.comb += [
            self.i.ready.eq(given == taken_here),
            self.o.valid.eq(given_there != taken),
            self.o.payload.eq(byte),
        ]
        with m.If(self.i.valid & self.i.ready):
            m.d[self.from_domain] += [byte.eq(self.i.payload), given.eq(~given)]
        with m.If(self.o.valid & self.o.ready):
            m.d[self.to_domain] += taken.eq(~taken)
        return m
