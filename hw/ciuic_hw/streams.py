"""Registers on streams: how long combinational paths are cut everywhere in the overlay.

A pipeline that can stall is cut where a path gets too long: by a `StreamRegister` where data take
long to arrive (from block RAM, through a wide multiplexer), by a `SkidBuffer` where ``ready`` does
(from the bus, through an arbiter). A pipeline that cannot stall has plain registers (`delay`) and a
FIFO with room for all that is in it at its end (`PipelineFifo`). All of them pass a beat a cycle.
"""

from amaranth.hdl import *
from amaranth.lib import stream
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import Component, In, Out, connect, flipped
from amaranth.utils import ceil_log2

from .arithmetic import less

__all__ = ["PipelineFifo", "SkidBuffer", "StreamFifo", "StreamRegister", "delay"]

# Places that are kept free beside those for what is on its way: `room` is registered, and so is
# what it is made of.
MARGIN = 2


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
    late
        Shape of what goes with it, if anything, and is needed a cycle later: nothing of it hangs on
        ``ready``, which is late and would have many registers to reach.

    Members
    -------
    i : In(stream)
    o : Out(stream)
    i_late : In(late)
        Goes with ``i``.
    late : Out(late)
        Belongs to what ``o`` offered in the cycle before.

    Latency
    -------
    One cycle.
    """

    def __init__(self, shape, *, late=0):
        self.late_shape = late
        super().__init__(
            {
                "i": In(stream.Signature(shape)),
                "o": Out(stream.Signature(shape)),
                "i_late": In(late),
                "late": Out(late),
            }
        )

    def elaborate(self, platform):
        m = Module()
        waiting, moves = Signal(), Signal()
        m.d.comb += [
            self.i.ready.eq(~waiting),
            Value.cast(self.o.p).eq(self._hold(m, self.i.p, waiting, moves)),
        ]
        # Plain logic: `o.ready` is late, and an enable or a reset of a register is slower.
        some, kept = waiting | self.i.valid, self.o.valid & ~self.o.ready
        m.d.comb += moves.eq(~kept)
        m.d.sync += [self.o.valid.eq(some | kept), waiting.eq(some & kept)]
        if Shape.cast(self.late_shape).width:
            came = delay(m, Value.cast(self.i_late), 1, reset_less=True)
            was_waiting, moved = delay(m, waiting, 1), delay(m, moves, 1)
            m.d.comb += Value.cast(self.late).eq(self._hold(m, came, was_waiting, moved))
        return m

    @staticmethod
    def _hold(m, payload, waiting, moves):
        """Return the payload that is offered: the one aside, if it waits, or the one that comes."""
        payload = Value.cast(payload)
        held, aside = Signal.like(payload, reset_less=True), Signal.like(payload, reset_less=True)
        with m.If(~waiting):
            m.d.sync += aside.eq(payload)
        with m.If(moves):
            m.d.sync += held.eq(Mux(waiting, aside, payload))
        return held


class StreamFifo(Component):
    """A FIFO whose both ends may be far away: what fills and empties it meets registers only.

    Who fills it knows that there is room: it takes an entry whenever one is offered. Its block RAM
    may be spread over the chip, so one register moves what is read, whether it is an entry or not.

    Parameters
    ----------
    shape
        Shape of an entry.
    depth
        Entries that it holds at least.

    Members
    -------
    i : In(stream)
        Always ready.
    o : Out(stream)

    Latency
    -------
    Four cycles.
    """

    def __init__(self, shape, *, depth):
        self.depth = depth
        super().__init__(
            {
                "i": In(stream.Signature(shape, always_ready=True)),
                "o": Out(stream.Signature(shape)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = Shape.cast(self.i.p.shape()).width
        bits = ceil_log2(self.depth)
        m.submodules.memory = memory = Memory(shape=width, depth=1 << bits, init=[])
        m.submodules.skid = skid = SkidBuffer(width)
        write, read = memory.write_port(), memory.read_port()
        newest, oldest = Signal(bits), Signal(bits)
        level = Signal(bits + 1)  # entries in the memory, a cycle ago
        # Entries to be read in this cycle: whether there are some, whether it is one, or two.
        some, one, two, three = Signal(), Signal(), Signal(), Signal()
        take = Signal()
        # What was read goes on, as the skid buffer has room. Its own register holds the inverse, so
        # that synthesis does not take the two for one.
        moves = Signal(init=1)
        fetched = Signal()  # what was read is an entry
        output = Signal(width, reset_less=True)  # block RAM is slow to answer
        wrote, took = delay(m, self.i.valid, 1), delay(m, take, 1)
        m.d.comb += [
            write.data.eq(self.i.p),
            write.addr.eq(newest),
            write.en.eq(self.i.valid),
            read.addr.eq(oldest),
            read.en.eq(moves),
            take.eq(moves & some),
            skid.i.p.eq(output),
            Value.cast(self.o.p).eq(skid.o.p),
            self.o.valid.eq(skid.o.valid),
            skid.o.ready.eq(self.o.ready),
        ]
        m.d.sync += [
            some.eq(self.i.valid | (some & ~(take & one))),
            moves.eq(~((~moves | skid.i.valid) & skid.o.valid & ~skid.o.ready)),
        ]
        with m.If(moves):
            m.d.sync += [fetched.eq(some), skid.i.valid.eq(fetched), output.eq(read.data)]
        m.d.comb += three.eq(Mux(wrote == took, level == 3, Mux(wrote, level == 2, level == 4)))
        with m.If(self.i.valid & ~take):
            m.d.sync += [one.eq(~some), two.eq(one)]
        with m.Elif(take & ~self.i.valid):
            m.d.sync += [one.eq(two), two.eq(three)]
        with m.If(self.i.valid):
            m.d.sync += newest.eq(newest + 1)
        with m.If(take):
            m.d.sync += oldest.eq(oldest + 1)
        with m.If(wrote != took):
            m.d.sync += level.eq(level + Mux(took, -1, 1))
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
        stored, left = delay(m, self.valid, 1), delay(m, self.o.valid & self.o.ready, 1)
        m.d.comb += [Value.cast(fifo.i.p).eq(payload), fifo.i.valid.eq(stored)]
        connect(m, fifo.o, flipped(self.o))
        # Entries that were stored and have not left, as of two cycles ago.
        level = Signal(range(self.depth + 1))
        with m.If(stored != left):
            m.d.sync += level.eq(level + Mux(stored, 1, -1))
        m.d.sync += self.room.eq(less(level, self.depth - self.latency - MARGIN))
        return m
