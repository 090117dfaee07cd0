"""Registers on streams: how long combinational paths are cut everywhere in the overlay.

A pipeline that can stall is cut where a path gets too long: by a `StreamRegister` where data take
long to arrive (from block RAM, through a wide multiplexer), by a `SkidBuffer` where ``ready`` does
(from the bus, through an arbiter). A pipeline that cannot stall has plain registers (`delay`) and a
FIFO with room for all that is in it at its end (`PipelineFifo`). All of them pass a beat a cycle.
"""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import Component, In, Out, connect, flipped

__all__ = ["PipelineFifo", "SkidBuffer", "StreamFifo", "StreamRegister", "delay"]

# Places that are kept free beside those for what is on its way: entries are registered before the
# FIFO, its output register fills a cycle late, and `room` is a cycle old.
MARGIN = 3


def delay(m, value, cycles, *, reset_less=False):
    """Return ``value`` as it was ``cycles`` cycles ago.

    Data that something else says to be valid can be ``reset_less``: that saves the routing of the
    reset, and a block RAM or a multiplier can take the registers as its own.
    """
    for _ in range(cycles):
        register = Signal(value.shape(), reset_less=reset_less)
        m.d.sync += register.eq(value)
        value = register
    return value


class StreamRegister(Component):
    """Register the payload and ``valid`` of a stream; ``ready`` passes through.

    Parameters
    ----------
    shape
        Shape of the payload.

    Members
    -------
    i : In(stream)
    o : Out(stream)

    Latency
    -------
    One cycle.
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        held = Signal(self.i.p.shape(), reset_less=True)
        m.d.comb += [self.i.ready.eq(~self.o.valid | self.o.ready), self.o.p.eq(held)]
        m.d.sync += self.o.valid.eq(self.i.valid | (self.o.valid & ~self.o.ready))
        with m.If(self.i.ready):
            m.d.sync += held.eq(self.i.p)
        return m


class SkidBuffer(Component):
    """Register a stream in both directions: a beat that meets a stall waits aside.

    Parameters
    ----------
    shape
        Shape of the payload.

    Members
    -------
    i : In(stream)
    o : Out(stream)

    Latency
    -------
    One cycle.
    """

    def __init__(self, shape):
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform):
        m = Module()
        shape = self.i.p.shape()
        held, aside = Signal(shape, reset_less=True), Signal(shape, reset_less=True)
        waiting = Signal()
        m.d.comb += [self.i.ready.eq(~waiting), self.o.p.eq(held)]
        with m.If(self.i.ready):
            m.d.sync += aside.eq(self.i.p)
        stalled = self.o.valid & ~self.o.ready
        m.d.sync += [
            self.o.valid.eq(waiting | self.i.valid | stalled),
            waiting.eq((waiting | self.i.valid) & stalled),
        ]
        with m.If(~stalled):
            m.d.sync += held.eq(Mux(waiting, aside, self.i.p))
        return m


class StreamFifo(Component):
    """A FIFO whose both ends may be far away: what fills and empties it meets registers only.

    Parameters
    ----------
    shape
        Shape of an entry.
    depth
        Entries that it holds at least.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    level : Out(range(depth + 1))
        Entries that have not left the memory, which is before they are at ``o``.

    Latency
    -------
    Four cycles.
    """

    def __init__(self, shape, *, depth):
        self.depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "level": Out(range(depth + 1)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.i.p.shape()).width
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=width, depth=self.depth)
        m.submodules.output = output = StreamRegister(width)  # block RAM is slow to answer
        m.submodules.skid = skid = SkidBuffer(width)
        connect(m, output.o, skid.i)
        m.d.comb += [
            fifo.w_data.eq(self.i.p),
            fifo.w_en.eq(self.i.valid),
            self.i.ready.eq(fifo.w_rdy),
            output.i.p.eq(fifo.r_data),
            output.i.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(output.i.ready),
            Value.cast(self.o.p).eq(skid.o.p),
            self.o.valid.eq(skid.o.valid),
            skid.o.ready.eq(self.o.ready),
        ]
        # The FIFO adds up its own level anew in every cycle.
        put, got = self.i.valid & self.i.ready, fifo.r_rdy & fifo.r_en
        m.d.sync += self.level.eq(self.level + put - got)
        return m


class PipelineFifo(Component):
    """A FIFO at the end of a pipeline that cannot stall.

    Parameters
    ----------
    shape
        Shape of an entry.
    depth
        Entries.
    latency
        Cycles from the decision to put something into the pipeline to its arrival here.

    Members
    -------
    valid : In(1)
        ``payload`` is stored in this cycle.
    payload : In(shape)
    room : Out(1)
        One more entry may be put into the pipeline in this cycle.
    o : Out(stream)
        The entries in order.
    """

    def __init__(self, shape, *, depth, latency):
        if depth <= latency + MARGIN:
            raise ValueError(f"depth must be more than {latency + MARGIN}, not {depth!r}")
        self.depth = depth
        self.latency = latency
        super().__init__(
            {
                "valid": In(1),
                "payload": In(shape),
                "room": Out(1),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        shape = self.signature.members["payload"].shape
        m.submodules.fifo = fifo = StreamFifo(shape, depth=self.depth)
        payload = delay(m, Value.cast(self.payload), 1, reset_less=True)
        m.d.comb += [Value.cast(fifo.i.p).eq(payload), fifo.i.valid.eq(delay(m, self.valid, 1))]
        connect(m, fifo.o, flipped(self.o))
        m.d.sync += self.room.eq(fifo.level < self.depth - self.latency - MARGIN)
        return m
