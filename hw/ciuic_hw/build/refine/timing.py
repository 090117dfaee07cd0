"""Static timing of a placement: when signals arrive, and how far they still have to go."""

import numpy as np
from numpy.typing import NDArray

from ciuic.errors import DeviceError

from . import delays
from .netlist import NEVER, Netlist

__all__ = ["Timing"]

DEPTH = 1000  # cells between two registers; the overlay has 67


class Timing:
    """Arrivals in a netlist, in ps, by the estimates of `delays`.

    Parameters
    ----------
    netlist
        What to time.

    Attributes
    ----------
    arrive
        For each net: when its driver follows the clock at the latest.
    wire
        For each pin: what the wire to it takes.
    behind
        For each pin: how long the longest way from it to a register is, with its setup.
    """

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        level = _levels(netlist)
        pins, arcs = level[netlist.pin_net], level[netlist.arc_net]
        top = int(pins.max(initial=0))
        self._into = _by_level(arcs, int(arcs.max(initial=0)))  # arcs that lead to nets of a level
        self._from = _by_level(pins[netlist.arc_pin], top)  # arcs that begin at pins of a level
        self._pins = _by_level(pins, top)
        self.ends = np.nonzero(netlist.setup > NEVER)[0]
        self.arrive: NDArray[np.float64]
        self.wire: NDArray[np.float64]
        self.behind: NDArray[np.float64]

    def update(self, x: NDArray[np.int64], y: NDArray[np.int64]) -> None:
        """Time the cells where they are."""
        n = self.netlist
        source = n.driver[n.pin_net]
        wire = delays.wire(x[source] - x[n.pin_cell], y[source] - y[n.pin_cell])
        wire[n.fixed] = 0
        arrive = n.launch.copy()
        for arcs in self._into:
            pins = n.arc_pin[arcs]
            np.maximum.at(
                arrive, n.arc_net[arcs], arrive[n.pin_net[pins]] + wire[pins] + n.arc_ps[arcs]
            )
        behind, tail = n.setup.copy(), np.full(len(n.driver), NEVER)
        for arcs, pins in zip(reversed(self._from), reversed(self._pins), strict=True):
            np.maximum.at(behind, n.arc_pin[arcs], n.arc_ps[arcs] + tail[n.arc_net[arcs]])
            np.maximum.at(tail, n.pin_net[pins], wire[pins] + behind[pins])
        self.arrive, self.wire, self.behind = arrive, wire, behind

    def through(self, pins: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return how long the longest path through each of some pins is."""
        arrive = self.arrive[self.netlist.pin_net[pins]]
        at: NDArray[np.float64] = arrive + self.wire[pins] + self.behind[pins]
        return at

    def paths(self) -> NDArray[np.float64]:
        """Return how long the longest path to each of ``ends`` is."""
        n, ends = self.netlist, self.ends
        at: NDArray[np.float64] = self.arrive[n.pin_net[ends]] + self.wire[ends] + n.setup[ends]
        return at

    def longest_wire(self, end: int) -> int:
        """Return the pin with the longest wire on the longest path to an end."""
        n, pin = self.netlist, end
        longest = pin
        while True:
            net = n.pin_net[pin]
            before = [
                (self.arrive[n.pin_net[source]] + self.wire[source] + ps, source)
                for source in n.inputs[n.driver[net]]
                for to, ps in n.arcs_of[source]
                if to == net
            ]
            if not before:
                return longest
            pin = max(before)[1]
            if self.wire[pin] > self.wire[longest]:
                longest = pin


def _by_level(levels: NDArray[np.int64], top: int) -> list[NDArray[np.int64]]:
    order = np.argsort(levels, kind="stable")
    return np.split(order, np.searchsorted(levels[order], np.arange(1, top + 1)))


def _levels(netlist: Netlist) -> NDArray[np.int64]:
    """Return for each net how many arcs are before it, at most."""
    level = np.zeros(len(netlist.driver), np.int64)
    source, sink = netlist.pin_net[netlist.arc_pin], netlist.arc_net
    for _ in range(DEPTH):
        new = level.copy()
        np.maximum.at(new, sink, level[source] + 1)
        if np.array_equal(new, level):
            return level
        level = new
    raise DeviceError(f"the netlist has a loop of logic, or more than {DEPTH} cells in a row")
