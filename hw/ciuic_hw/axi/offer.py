"""Requests of a state machine to one of several buses."""

from amaranth.hdl import *

__all__ = ["offer"]


def offer(m, buses, channels, *, then):
    """Offer a request, within a state of an FSM, until all of its channels are taken.

    The state ends in the second cycle behind that, so that the FSM looks at registers only.

    Parameters
    ----------
    buses
        Pairs of a bus, seen from the manager, and whether it is the one that is meant.
    channels
        Names of AXI channels, as in ``("aw", "w")``. Each is taken in its own time.
    then
        The state that follows.
    """
    taken = {channel: Signal(name=f"taken_{channel}") for channel in channels}
    for channel in channels:
        ready = taken[channel]
        for bus, here in buses:
            m.d.comb += getattr(bus, f"{channel}valid").eq(here & ~taken[channel])
            ready |= here & getattr(bus, f"{channel}ready")
        m.d.sync += taken[channel].eq(ready)
    with m.If(Cat(taken.values()).all()):
        m.d.sync += [one.eq(0) for one in taken.values()]
        m.next = then
