"""Find better places for what is on the longest paths of a placement."""

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .cost import SOFTNESS, Cost
from .netlist import Netlist
from .sites import FREE, HALVES, Sites
from .timing import Timing

__all__ = ["Search"]

Index = NDArray[np.int64]

WINDOW = 4  # tiles to each side of a place that attracts a unit
PLACES = 40  # tried for a unit, the cheapest first
SWAPS = 3  # of them tried in a tile
CROWD = 16  # units that one may change places with
RETIME = 400  # units between two timings
LOCAL = 40  # pins of a net that holds a group together
GROUPS = (3, 6, 12, 50, 150)  # units in one
POLISH = 60  # of them improved one by one after that
RADIUS = 14  # tiles around its middle
SHARES = (0.3, 0.6, 1.0)  # of the way
AROUND = sorted(
    ((dx, dy) for dx in range(-6, 7) for dy in range(-6, 7)), key=lambda at: abs(at[0]) + abs(at[1])
)


class Search:
    """Moves units, one by one and in groups, as long as that makes the whole cheaper."""

    def __init__(self, netlist: Netlist, goal: float) -> None:
        self.netlist, self.sites, self.timing = netlist, Sites(netlist), Timing(netlist)
        self.cost = Cost(netlist, self.sites, self.timing, goal)
        self.units = [unit for unit in netlist.members if self.sites.movable(unit)]
        self._pins_of = {
            unit: np.array(
                [pin for cell in netlist.members[unit] for pin in self._pins(cell)], np.int64
            )
            for unit in self.units
        }
        self.retime()

    def _pins(self, cell: int) -> Iterator[int]:
        yield from self.netlist.inputs[cell]
        for net in self.netlist.outputs[cell]:
            yield from self.netlist.fanout[net]

    def retime(self) -> None:
        """Time the placement as it is."""
        self.timing.update(self.sites.x, self.sites.y)

    def sweep(self) -> int:
        """Try all units on paths that are about as long as the goal; return how many moved."""
        through = self.timing.through(np.arange(len(self.netlist.pin_net)))
        longest = [
            (float(through[pins].max(initial=0)), unit) for unit, pins in self._pins_of.items()
        ]
        least = self.cost.goal - SOFTNESS
        moved = 0
        for count, (_, unit) in enumerate(
            sorted((each for each in longest if each[0] > least), reverse=True), 1
        ):
            moved += self.improve(unit)
            if not count % RETIME:
                self.retime()
        self.retime()
        return moved

    def improve(self, unit: int) -> bool:
        """Move a unit to the cheapest place that is better, free or by changing places."""
        column, row, half = self.sites.corner(unit)
        columns, rows = self._places(unit, column, row)
        cost = self.cost.of(unit, np.append(columns, column), np.append(rows, row))
        now = float(cost[-1])
        step = self.sites.step(unit)
        for best in np.argsort(cost[:-1])[:PLACES]:
            gain = now - float(cost[best])
            if gain <= 0.005 * now + 1e-6:
                return False
            dx, dy = int(columns[best]) - column, int(rows[best]) - row
            if dy == 0 and abs(dx) < self.sites.width(unit) and step == HALVES:
                continue
            crowded = []
            for dz in range(-half, HALVES - half, step):
                others = self.sites.in_the_way(unit, dx, dy, dz)
                if others == set() and self.sites.shift([(unit, dx, dy, dz)]):
                    return True
                if others and len(others) <= CROWD and all(map(self.sites.movable, others)):
                    crowded.append((len(others), dz, others))
            for _, dz, others in sorted(crowded, key=lambda each: each[:2])[:SWAPS]:
                if self._loss(others, dx, dy) < gain and self._swap(unit, others, dx, dy, dz):
                    return True
        return False

    def _places(self, unit: int, column: int, row: int) -> tuple[Index, Index]:
        """Return tiles that may be good for a unit: here, where wires pull it, and on the way."""
        block = self.sites.block[self.netlist.members[unit][0]]
        if block != FREE:
            return np.nonzero(self.sites.block_tiles[block])
        cells, weight = self.cost.pull(unit)
        if not len(cells):
            return np.array([], np.int64), np.array([], np.int64)
        x, y = self.sites.x[cells], self.sites.y[cells]
        hardest = int(np.argmax(weight))
        middle = _median(x, weight), _median(y, weight)
        around = [(column, row), middle]
        around += [
            ((column + to_x) // 2, (row + to_y) // 2)
            for to_x, to_y in (middle, (int(x[hardest]), int(y[hardest])))
        ]
        tiles = self.sites.logic_tiles
        near = np.zeros_like(tiles)
        for at_x, at_y in around:
            near[
                max(at_x - WINDOW, 0) : at_x + WINDOW + 1, max(at_y - WINDOW, 0) : at_y + WINDOW + 1
            ] = 1
        return np.nonzero(near & tiles)

    def _loss(self, others: set[int], dx: int, dy: int) -> float:
        loss = 0.0
        for other in others:
            column, row, _ = self.sites.corner(other)
            cost = self.cost.of(other, np.array([column, column - dx]), np.array([row, row - dy]))
            loss += float(cost[1] - cost[0])
        return loss

    def _swap(self, unit: int, others: set[int], dx: int, dy: int, dz: int) -> bool:
        back = [(other, -dx, -dy, -dz) for other in others]
        return self.sites.shift([(unit, dx, dy, dz), *back])

    def regroup(self, tries: int) -> int:
        """Move what is around the longest wires of the longest paths; return how many groups moved.

        Units that hold one another in place get nowhere alone.
        """
        n, moved = self.netlist, 0
        seen: set[tuple[int, int]] = set()
        paths = self.timing.paths()
        for end in self.timing.ends[np.argsort(-paths, kind="stable")]:
            if paths.max() < self.cost.goal or len(seen) >= tries:
                break
            pin = self.timing.longest_wire(int(end))
            ends = n.unit[n.driver[n.pin_net[pin]]], n.unit[n.pin_cell[pin]]
            if ends not in seen:
                seen.add(ends)
                moved += self._bring_together(*ends)
        return moved

    def _bring_together(self, one: int, other: int) -> bool:
        """Move the group around one of two units towards the other, as far as is best."""
        cost, best, start = self.cost.total(), None, self.sites.keep()
        (x0, y0, _), (x1, y1, _) = self.sites.corner(one), self.sites.corner(other)
        for unit, dx, dy in ((other, x0 - x1, y0 - y1), (one, x1 - x0, y1 - y0)):
            known = 0
            for size in GROUPS:
                group = self._around(unit, size)
                if len(group) == known:
                    continue
                known = len(group)
                for share in SHARES:
                    step = round(dx * share), round(dy * share)
                    if abs(step[0]) + abs(step[1]) < 3:
                        continue
                    self._carry(group, *step)
                    self.retime()
                    total = self.cost.total()
                    if total < 0.9999 * cost and (best is None or total < best[0]):
                        best = total, self.sites.keep(), group
                    self.sites.restore(start)
        if best:
            self.sites.restore(best[1])
            self.retime()
            for unit in best[2][:POLISH] * 2:
                self.improve(unit)
        self.retime()
        return best is not None

    def _around(self, unit: int, size: int) -> list[int]:
        """Return the units that are nearest to one by wires, in reach."""
        n, x, y = self.netlist, self.sites.x, self.sites.y
        middle = n.members[unit][0]
        queue, seen, group = deque([unit]), {unit}, []
        while queue and len(group) < size:
            here = queue.popleft()
            if not self.sites.movable(here) or self.sites.block[n.members[here][0]] != FREE:
                continue
            group.append(here)
            for cell in n.members[here]:
                for pin in self._pins(cell):
                    net = n.pin_net[pin]
                    for near in (n.unit[n.driver[net]], n.unit[n.pin_cell[pin]]):
                        at = n.members[near][0]
                        distance = abs(x[at] - x[middle]) + abs(y[at] - y[middle])
                        if near not in seen and len(n.fanout[net]) <= LOCAL and distance <= RADIUS:
                            seen.add(near)
                            queue.append(near)
        return group

    def _carry(self, group: list[int], dx: int, dy: int) -> None:
        """Move each unit of a group by so much, or to what is free next to there."""
        members = set(group)
        for unit in sorted(group, key=lambda unit: -len(self.netlist.members[unit])):
            step, half = self.sites.step(unit), self.sites.corner(unit)[2]
            any(
                self._settle(unit, members, dx + aside, dy + below, dz)
                for aside, below in AROUND
                if (dx + aside, dy + below) != (0, 0)
                for dz in range(-half, HALVES - half, step)
            )

    def _settle(self, unit: int, members: set[int], dx: int, dy: int, dz: int) -> bool:
        others = self.sites.in_the_way(unit, dx, dy, dz)
        if others is None or (others and self.sites.step(unit) < HALVES):
            return False
        if len(others) > CROWD or others & members:
            return False
        if any(not self.sites.movable(other) or self.sites.width(other) > 1 for other in others):
            return False
        return self._swap(unit, others, dx, dy, dz)


def _median(at: Index, weight: NDArray[np.float64]) -> int:
    order = np.argsort(at, kind="stable")
    upto = np.cumsum(weight[order])
    return int(at[order][np.searchsorted(upto, upto[-1] / 2)])
