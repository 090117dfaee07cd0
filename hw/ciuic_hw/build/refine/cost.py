"""What a place of a unit costs: long paths first, then wire."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import delays
from .netlist import NEVER, Netlist
from .sites import Sites
from .timing import Timing

__all__ = ["Cost"]

SOFTNESS = 400.0  # ps; a path that is longer by so much counts e times as much
WIRE = 1e-3  # of a tile of wire, in paths that just meet the goal
WIDE = 60  # nets with more pins count no wire, as all places are alike to them

Array = NDArray[np.float64]
Index = NDArray[np.int64]


@dataclass
class _Unit:
    """A unit as its surroundings see it."""

    pins: Index  # from other units
    pin_dx: Index  # column of the pin's cell behind the unit's first one
    far_pins: Index  # of other units, on nets of this one
    far_dx: Index  # column of the driver
    nets: Index  # of the unit that leave it, in the order of ``far_pins``
    net_of: Index  # for each of ``far_pins``: place in ``nets``
    first: Index  # for each of ``nets``: its first of ``far_pins``
    inside: Array  # pins x nets: the longest way
    stop: Array  # for each of ``pins``: the longest way to a register within
    wired: Index  # cells of other units on nets that count, net by net
    wires: Index  # where the cells of a net begin in ``wired``


class Cost:
    """Costs of places, given the last timing.

    All paths count, each with exp((length - goal) / `SOFTNESS`), so the longest ones count most,
    and none is shortened at the expense of one as long.
    """

    def __init__(self, netlist: Netlist, sites: Sites, timing: Timing, goal: float) -> None:
        self.netlist, self.sites, self.timing, self.goal = netlist, sites, timing, goal
        self._units: dict[int, _Unit] = {}
        order = np.argsort(netlist.pin_net, kind="stable")
        nets, first = np.unique(netlist.pin_net[order], return_index=True)
        counts = np.array([len(netlist.fanout[net]) <= WIDE for net in nets])
        self._pins, self._first, self._nets, self._counts = order, first, nets, counts

    def of_paths(self, length: Array) -> Array:
        """Return what paths cost."""
        cost: Array = np.exp(np.minimum((length - self.goal) / SOFTNESS, 40.0))
        return cost

    def total(self) -> float:
        """Return the cost of the whole placement, as it was timed last."""
        return float(self.of_paths(self.timing.paths()).sum()) + WIRE * self._wire()

    def _wire(self) -> float:
        """Return half the circumference of all nets, in tiles."""
        n, total = self.netlist, 0.0
        sinks, drivers = n.pin_cell[self._pins], n.driver[self._nets]
        for at in (self.sites.x, self.sites.y):
            high = np.maximum(np.maximum.reduceat(at[sinks], self._first), at[drivers])
            low = np.minimum(np.minimum.reduceat(at[sinks], self._first), at[drivers])
            total += float((high - low)[self._counts].sum())
        return total

    def of(self, unit: int, columns: Index, rows: Index) -> Array:
        """Return what a unit costs with its corner in each of some tiles."""
        u, columns, rows = self._unit(unit), columns[:, None], rows[:, None]
        return self._paths(u, columns, rows) + WIRE * self._wires(u, columns, rows)

    def pull(self, unit: int) -> tuple[Index, Array]:
        """Return the cells that a unit has wires to, and how much the paths through them cost."""
        n, u = self.netlist, self._unit(unit)
        cells = np.concatenate([n.driver[n.pin_net[u.pins]], n.pin_cell[u.far_pins]])
        through = self.timing.through(np.concatenate([u.pins, u.far_pins]))
        return cells, self.of_paths(through) + 1e-9

    def _paths(self, u: _Unit, columns: Index, rows: Index) -> Array:
        n, t, x, y = self.netlist, self.timing, self.sites.x, self.sites.y
        nets = n.pin_net[u.pins]
        source, sink = n.driver[nets], n.pin_cell[u.far_pins]
        to = t.arrive[nets] + delays.wire(columns + u.pin_dx - x[source], rows - y[source])
        after = t.behind[u.far_pins] + delays.wire(columns + u.far_dx - x[sink], rows - y[sink])
        if not len(u.far_pins):
            return self.of_paths(to + u.stop).sum(1)
        tail = np.maximum.reduceat(after, u.first, axis=1)
        leave = np.broadcast_to(n.launch[u.nets], tail.shape)
        cost = np.zeros(len(columns))
        if len(u.pins):
            leave = np.maximum(leave, (to[:, :, None] + u.inside).max(1))
            beyond = np.maximum(u.stop, (u.inside + tail[:, None, :]).max(2))
            cost += self.of_paths(to + beyond).sum(1)
        return cost + self.of_paths(leave[:, u.net_of] + after).sum(1)

    def _wires(self, u: _Unit, columns: Index, rows: Index) -> Array:
        """Return by how much nets grow that reach to there, in tiles."""
        total = np.zeros(len(columns))
        if len(u.wires):
            for at, here in ((self.sites.x[u.wired], columns), (self.sites.y[u.wired], rows)):
                low, high = np.minimum.reduceat(at, u.wires), np.maximum.reduceat(at, u.wires)
                total += np.maximum(low - here, 0).sum(1) + np.maximum(here - high, 0).sum(1)
        return total

    def _unit(self, unit: int) -> _Unit:
        if unit not in self._units:
            self._units[unit] = self._look(unit)
        return self._units[unit]

    def _look(self, unit: int) -> _Unit:
        n, members = self.netlist, self.netlist.members[unit]
        own = set(members)
        left = min(int(self.sites.x[cell]) for cell in members)
        pins = [p for c in members for p in n.inputs[c] if n.driver[n.pin_net[p]] not in own]
        leaving = {
            net: far
            for cell in members
            for net in n.outputs[cell]
            if (far := [pin for pin in n.fanout[net] if n.pin_cell[pin] not in own])
        }
        nets, far_pins = list(leaving), [pin for far in leaving.values() for pin in far]
        counts = [len(far) for far in leaving.values()]
        inside, stop = self._inside(pins, nets, own)
        wired, wires = [], []
        for net in {int(n.pin_net[pin]) for pin in pins} | leaving.keys():
            cells = [int(n.driver[net]), *(int(n.pin_cell[pin]) for pin in n.fanout[net])]
            others = [cell for cell in cells if cell not in own]
            if len(n.fanout[net]) <= WIDE and others:
                wires.append(len(wired))
                wired += others
        x = self.sites.x
        return _Unit(
            pins=np.array(pins, np.int64),
            pin_dx=np.array([x[n.pin_cell[pin]] - left for pin in pins], np.int64),
            far_pins=np.array(far_pins, np.int64),
            far_dx=np.repeat([x[n.driver[net]] - left for net in nets], counts).astype(np.int64),
            nets=np.array(nets, np.int64),
            net_of=np.repeat(np.arange(len(nets)), counts),
            first=np.cumsum([0, *counts[:-1]]) if counts else np.array([], np.int64),
            inside=inside,
            stop=stop,
            wired=np.array(wired, np.int64),
            wires=np.array(wires, np.int64),
        )

    def _inside(self, pins: list[int], nets: list[int], own: set[int]) -> tuple[Array, Array]:
        """Return the longest ways within a unit: from pins to nets, and to registers."""
        n, column = self.netlist, {net: number for number, net in enumerate(nets)}
        inside, stop = np.full((len(pins), len(nets)), NEVER), np.full(len(pins), NEVER)
        for row, pin in enumerate(pins):
            front = [(pin, 0.0)]
            while front:
                here, since = front.pop()
                stop[row] = max(stop[row], since + n.setup[here])
                for net, ps in n.arcs_of[here]:
                    if net in column:
                        inside[row, column[net]] = max(inside[row, column[net]], since + ps)
                    for far in n.fanout[net]:
                        if n.pin_cell[far] in own:
                            wire = 0 if n.fixed[far] else delays.WIRE
                            front.append((far, since + ps + wire))
        return inside, stop
