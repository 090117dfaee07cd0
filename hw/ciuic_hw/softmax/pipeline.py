"""Parts of pipelines that never stall: what enters one has room at its end."""

from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.fifo import SyncFIFOBuffered
from amaranth.lib.wiring import In, Out

__all__ = ["PipelineFifo", "delay"]

# Places that are kept free beside those for what is on its way: the FIFO's output register fills a
# cycle late, and `room` is a cycle old.
MARGIN = 2


def delay(m, value, cycles):
    """Return ``value`` as it was ``cycles`` cycles ago."""
    for _ in range(cycles):
        register = Signal(value.shape())
        m.d.sync += register.eq(value)
        value = register
    return value


class PipelineFifo(wiring.Component):
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
        width = Shape.cast(self.signature.members["payload"].shape).width
        m.submodules.fifo = fifo = SyncFIFOBuffered(width=width, depth=self.depth)
        m.d.comb += [
            fifo.w_data.eq(self.payload),
            fifo.w_en.eq(self.valid),
            Value.cast(self.o.payload).eq(fifo.r_data),
            self.o.valid.eq(fifo.r_rdy),
            fifo.r_en.eq(self.o.ready),
        ]
        m.d.sync += self.room.eq(fifo.level < self.depth - self.latency - MARGIN)
        return m
