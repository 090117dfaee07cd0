"""A placed design of nextpnr, read from its JSON into arrays."""

import re
from collections import defaultdict

import numpy as np

from . import delays

__all__ = ["NEVER", "Netlist"]

NEVER = -1e9  # ps; no signal gets here, or none has to go on
CLOCKS = {"DCCA", "EHXPLLL"}  # what drives global wires
WHERE = re.compile(r"X(\d+)/Y(\d+)/(?:SLICE([A-D])\.(?:K|FF|RAMW)(\d?)|.*)")
IN_PLACE = {"FCI", "FXA", "FXB", "F1"}  # inputs that have a wire of their own, from a neighbour


class Netlist:
    """Cells, nets, pins and arcs of a module, by number.

    A *net* is an output of a cell, a *pin* an input that it drives, an *arc* a way through a cell
    from a pin to a net. Wires of clocks are not in it. A *unit* is the cells that must keep their
    places towards one another, as wires between them exist in one place only: a LUT and the
    flip-flop behind it, a carry chain, a LUT RAM.

    Parameters
    ----------
    module
        The module of nextpnr's JSON, placed.
    """

    def __init__(self, module: dict) -> None:
        self.names: list[str] = list(module["cells"])
        self.cells: list[dict] = list(module["cells"].values())
        self.kinds: list[str] = [cell["type"] for cell in self.cells]
        self.bels: list[str] = [cell["attributes"].get("NEXTPNR_BEL", "") for cell in self.cells]
        self.x, self.y, self.z = np.array([_where(bel) for bel in self.bels], np.int64).T.copy()
        self._nets()
        self._pins()
        self._units()

    def _nets(self) -> None:
        self._net_of: dict[int, int] = {}
        self.outputs: list[list[int]] = [[] for _ in self.cells]
        driver, launch, self._port = [], [], []
        for number, cell in enumerate(self.cells):
            for pin, bits in _connected(cell, "output"):
                ps = delays.launch(cell, pin)
                self._net_of[bits] = len(driver)
                self.outputs[number].append(len(driver))
                driver.append(number)
                launch.append(NEVER if ps is None else float(ps))
                self._port.append(pin)
        self.driver, self.launch = np.array(driver), np.array(launch)

    def _pins(self) -> None:
        self.inputs: list[list[int]] = [[] for _ in self.cells]
        self.fanout: list[list[int]] = [[] for _ in self.driver]
        self.arcs_of: dict[int, list[tuple[int, int]]] = defaultdict(list)
        nets, cells, setups, fixed = [], [], [], []
        for number, cell in enumerate(self.cells):
            ways = defaultdict(list)
            for (pin, output), ps in delays.cell_arcs(cell).items():
                ways[pin].append((output, ps))
            out = {self._port[net]: net for net in self.outputs[number]}
            for pin, bit in _connected(cell, "input"):
                net = self._net_of.get(bit)
                if net is None or self.kinds[self.driver[net]] in CLOCKS:
                    continue
                here, ps = len(nets), delays.setup(cell, pin)
                nets.append(net)
                cells.append(number)
                setups.append(NEVER if ps is None else float(ps + delays.entry(cell, pin)))
                fixed.append(self._in_place(net, pin))
                self.inputs[number].append(here)
                self.fanout[net].append(here)
                self.arcs_of[here] = [(out[to], ps) for to, ps in ways[pin] if to in out]
        self.pin_net, self.pin_cell = np.array(nets), np.array(cells)
        self.setup, self.fixed = np.array(setups), np.array(fixed)
        arcs = [(pin, net, ps) for pin, ways in self.arcs_of.items() for net, ps in ways]
        self.arc_pin, self.arc_net, self.arc_ps = np.array(arcs, np.int64).reshape(-1, 3).T.copy()

    def _in_place(self, net: int, pin: str) -> bool:
        """Return whether a wire leads to a neighbour only, in no time."""
        return (
            pin in IN_PLACE
            or (pin == "DI" and self._port[net] == "F")
            or self.kinds[self.driver[net]] == "TRELLIS_RAMW"
        )

    def _units(self) -> None:
        parent = list(range(len(self.cells)))

        def root(cell: int) -> int:
            while parent[cell] != cell:
                parent[cell] = cell = parent[parent[cell]]
            return cell

        for pin in np.nonzero(self.fixed)[0]:
            parent[root(int(self.driver[self.pin_net[pin]]))] = root(int(self.pin_cell[pin]))
        ports = {
            (self.x[cell], self.y[cell]): cell
            for cell, kind in enumerate(self.kinds)
            if kind == "TRELLIS_RAMW"
        }
        for cell, json in enumerate(self.cells):
            if json["parameters"].get("MODE") == "RAMW_BLOCK":  # LUTs that the port takes up
                parent[root(cell)] = root(ports[self.x[cell], self.y[cell]])
        self.unit = [root(cell) for cell in range(len(self.cells))]
        self.members: dict[int, list[int]] = defaultdict(list)
        for cell, unit in enumerate(self.unit):
            self.members[unit].append(cell)


def _connected(cell: dict, direction: str) -> list[tuple[str, int]]:
    """Return the pins of a direction that have a net, with the net's number in the JSON."""
    directions = cell["port_directions"]
    return [
        (pin, bits[0])
        for pin, bits in cell["connections"].items()
        if bits and isinstance(bits[0], int) and directions[pin] == direction
    ]


def _where(bel: str) -> tuple[int, int, int]:
    """Return column, row and half of a tile's slices (0 elsewhere) of a bel; -1 if unplaced."""
    found = WHERE.match(bel)
    if not found:
        return -1, -1, 0
    column, row, piece, half = found.groups()
    return int(column), int(row), "ABCD".index(piece) * 2 + int(half) if half else 0
