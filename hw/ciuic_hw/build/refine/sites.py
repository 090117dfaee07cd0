"""Which cell is where on an ECP5, and where else it may be.

A logic tile has four slices of two halves; each half has a place for a LUT and one for a flip-flop.
The rules are those of nextpnr (``ecp5/arch_place.cc``, ``slices_compatible``).
"""

import re
from collections.abc import Iterable

import numpy as np

from .netlist import Netlist

__all__ = ["FREE", "HALVES", "Sites"]

HALVES = 8  # of a tile's slices
FF, RAMW = (
    HALVES,
    2 * HALVES,
)  # where flip-flops begin in a tile's places, and a RAM's write port is
LOGIC = {"TRELLIS_COMB": 0, "TRELLIS_FF": FF, "TRELLIS_RAMW": RAMW}
MEMORY, MULTIPLIER = "DP16KD", "MULT18X18D"
CONTROL = re.compile(r"(CLK|CE|RST)\d")  # pins that the multipliers of a DSP block may share
FREE = -1

Move = tuple[int, int, int, int]  # a unit; columns, rows and halves


class Sites:
    """Places of cells; `x`, `y` and `z` (half of the tile's slices) hold them by cell.

    Memories can be where a column and a row of them cross, and multipliers where one was that has
    the same clocks, enables and resets; other hard blocks stay where they are.
    """

    def __init__(self, netlist: Netlist) -> None:
        self.netlist = netlist
        self.x, self.y, self.z = netlist.x.copy(), netlist.y.copy(), netlist.z.copy()
        kinds = netlist.kinds
        self._kind = [LOGIC.get(kind, 0) for kind in kinds]
        self._rules()
        self._tiles: dict[tuple[int, int], list[int]] = {}
        shape = int(self.x.max()) + 1, int(self.y.max()) + 1
        self._hard_blocks(shape)
        for cell, kind in enumerate(kinds):
            if kind in LOGIC or self.block[cell] != FREE:
                place = int(self.x[cell]), int(self.y[cell])
                tile = self._tiles.setdefault(place, [FREE] * (RAMW + 1))
                tile[self._kind[cell] + int(self.z[cell]) * (kind != "TRELLIS_RAMW")] = cell
        self.logic_tiles = np.zeros(shape, bool)
        for place in self._tiles.keys() - self._blocks.keys():
            self.logic_tiles[place] = True
        self._movable: dict[int, bool] = {}
        self._step: dict[int, int] = {}

    def _hard_blocks(self, shape: tuple[int, int]) -> None:
        """Find places of hard blocks that can be moved, and number what can change places."""
        self.block = [FREE] * len(self.netlist.cells)  # such a number, of each cell
        self.block_tiles: list[np.ndarray] = []  # where those of a number can be
        self._blocks: dict[tuple[int, int], int] = {}
        self._block_bel: dict[tuple[int, int], str] = {}
        numbers: dict[object, int] = {}
        for cell, json in enumerate(self.netlist.cells):
            if json["type"] in {MEMORY, MULTIPLIER}:
                nets = sorted(json["connections"].items()) if json["type"] == MULTIPLIER else ()
                controls = str([one for one in nets if CONTROL.fullmatch(one[0])])
                self.block[cell] = numbers.setdefault((json["type"], controls), len(numbers))
        for number in range(len(numbers)):
            cells = [cell for cell, one in enumerate(self.block) if one == number]
            places = {
                (int(self.x[cell]), int(self.y[cell])): self.netlist.bels[cell].split("/")[2]
                for cell in cells
            }
            if self.netlist.kinds[cells[0]] == MEMORY:
                rows = {row for _, row in places}
                places = {(column, row): bel for (column, _), bel in places.items() for row in rows}
            tiles = np.zeros(shape, bool)
            for place, bel in places.items():
                self._tiles[place] = [FREE]
                self._blocks[place], self._block_bel[place], tiles[place] = number, bel, True
            self.block_tiles.append(tiles)

    def _rules(self) -> None:
        """Number what must be the same in a slice, and in a tile."""
        numbers: dict[object, int] = {}
        count = len(self.netlist.cells)
        self._slice, self._tile = [0] * count, [0] * count
        self._carry, self._m = [False] * count, [False] * count
        for cell, json in enumerate(self.netlist.cells):
            kind, parameters, nets = json["type"], json["parameters"], json["connections"]
            if kind == "TRELLIS_FF":
                enable, clock = (
                    tuple(str(parameters.get(name, "")).strip() for name in names)
                    + tuple(str(nets.get(pin)) for pin in pins)
                    for names, pins in (
                        (("CEMUX", "GSR"), ("CE",)),
                        (("CLKMUX", "LSRMUX", "SRMODE"), ("CLK", "LSR")),
                    )
                )
                self._slice[cell] = numbers.setdefault(enable, len(numbers))
                self._tile[cell] = numbers.setdefault(clock, len(numbers))
            if kind in LOGIC:
                self._m[cell] = bool(nets.get("M"))
                self._carry[cell] = parameters.get("MODE") == "CCU2"

    def movable(self, unit: int) -> bool:
        """Return whether a unit is of tiles' logic in one row, or a block with others like it."""
        if unit not in self._movable:
            members = self.netlist.members[unit]
            kinds = {self.netlist.kinds[cell] for cell in members}
            rows = {int(self.y[cell]) for cell in members}
            self._movable[unit] = len(rows) == 1 and (
                kinds <= LOGIC.keys() or (len(members) == 1 and self.block[members[0]] != FREE)
            )
        return self._movable[unit]

    def step(self, unit: int) -> int:
        """Return by how many halves a unit can move in a tile: 1, 2 or (`HALVES`) not at all."""
        if unit not in self._step:
            members = self.netlist.members[unit]
            halves = {(int(self.x[cell]), int(self.z[cell])) for cell in members}
            slices = {(column, half // 2) for column, half in halves}
            tied = any(
                self._carry[cell]
                or self.block[cell] != FREE
                or self._mode(cell) in {"DPRAM", "RAMW_BLOCK"}
                for cell in members
            )
            self._step[unit] = HALVES if tied or len(slices) > 1 else len(halves)
        return self._step[unit]

    def _mode(self, cell: int) -> str:
        return str(self.netlist.cells[cell]["parameters"].get("MODE", ""))

    def corner(self, unit: int) -> tuple[int, int, int]:
        """Return a unit's first column, its row, and its first half."""
        members = self.netlist.members[unit]
        half = min(int(self.z[cell]) for cell in members)
        step = self.step(unit)
        return (
            min(int(self.x[cell]) for cell in members),
            int(self.y[members[0]]),
            half - half % step,
        )

    def width(self, unit: int) -> int:
        """Return how many columns a unit has."""
        columns = [int(self.x[cell]) for cell in self.netlist.members[unit]]
        return max(columns) - min(columns) + 1

    def in_the_way(self, unit: int, dx: int, dy: int, dz: int) -> set[int] | None:
        """Return which other units are where a unit would go; None if there are no such places."""
        found = set()
        for cell in self.netlist.members[unit]:
            place = int(self.x[cell]) + dx, int(self.y[cell]) + dy
            tile = self._tiles.get(place)
            if tile is None or self._blocks.get(place, FREE) != self.block[cell]:
                return None
            other = tile[self._place(cell, int(self.z[cell]) + dz)]
            if other != FREE and self.netlist.unit[other] != unit:
                found.add(self.netlist.unit[other])
        return found

    def shift(self, moves: Iterable[Move]) -> bool:
        """Move units all at once; if that is not legal, leave all as they are and return False."""
        moves = list(moves)
        if any(dz % self.step(unit) for unit, _, _, dz in moves):
            return False
        cells = [(cell, move) for move in moves for cell in self.netlist.members[move[0]]]
        before = [(c, int(self.x[c]), int(self.y[c]), int(self.z[c])) for c, _ in cells]
        for cell, *_ in before:
            self._lift(cell)
        for count, ((cell, x, y, z), (_, move)) in enumerate(zip(before, cells, strict=True)):
            if not self._put(cell, x + move[1], y + move[2], z + move[3]):
                for done, *_ in before[:count]:
                    self._lift(done)
                for back in before:
                    self._set(*back)
                return False
        return True

    def _place(self, cell: int, z: int) -> int:
        kind = self._kind[cell]
        return kind if kind == RAMW or self.block[cell] != FREE else kind + z

    def _lift(self, cell: int) -> None:
        tile = self._tiles[int(self.x[cell]), int(self.y[cell])]
        tile[self._place(cell, int(self.z[cell]))] = FREE

    def _set(self, cell: int, x: int, y: int, z: int) -> None:
        self._tiles[x, y][self._place(cell, z)] = cell
        self.x[cell], self.y[cell], self.z[cell] = x, y, z

    def _put(self, cell: int, x: int, y: int, z: int) -> bool:
        """Put a cell there if it may be there beside what is there already."""
        tile = self._tiles.get((x, y))
        if tile is None or not 0 <= z < HALVES:
            return False
        if self._blocks.get((x, y), FREE) != self.block[cell]:
            return False
        if tile[self._place(cell, z)] != FREE:
            return False
        kind = self._kind[cell]
        if kind == FF and not self._ff_may(cell, tile, z):
            return False
        if kind == 0 and self.block[cell] == FREE and not self._lut_may(cell, tile, z):
            return False
        self._set(cell, x, y, z)
        return True

    def _ff_may(self, cell: int, tile: list[int], z: int) -> bool:
        """Clock and reset are a tile's, the enable is a slice's, an input M is a half's."""
        beside, lut = tile[FF + (z ^ 1)], tile[z]
        return (
            all(other == FREE or self._tile[other] == self._tile[cell] for other in tile[FF:RAMW])
            and (beside == FREE or self._slice[beside] == self._slice[cell])
            and not (self._m[cell] and lut != FREE and self._m[lut])
        )

    def _lut_may(self, cell: int, tile: list[int], z: int) -> bool:
        """Both LUTs of a slice carry or none does; an input M is a half's."""
        beside, ff = tile[z ^ 1], tile[FF + z]
        return (beside == FREE or self._carry[beside] == self._carry[cell]) and not (
            self._m[cell] and ff != FREE and self._m[ff]
        )

    def keep(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return all places, for `restore`."""
        return self.x.copy(), self.y.copy(), self.z.copy()

    def restore(self, places: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
        """Put all cells back to where they were."""
        x, y, z = places
        (moved,) = np.nonzero((x != self.x) | (y != self.y) | (z != self.z))
        for cell in moved:
            self._lift(cell)
        for cell in moved:
            self._set(int(cell), int(x[cell]), int(y[cell]), int(z[cell]))

    def bel(self, cell: int) -> str:
        """Return nextpnr's name of the place of a cell."""
        x, y, z = int(self.x[cell]), int(self.y[cell]), int(self.z[cell])
        kind = self.netlist.kinds[cell]
        if self.block[cell] != FREE:
            return f"X{x}/Y{y}/{self._block_bel[x, y]}"
        if kind not in LOGIC:
            return self.netlist.bels[cell]
        if kind == "TRELLIS_RAMW":
            return f"X{x}/Y{y}/SLICEC.RAMW"
        return f"X{x}/Y{y}/SLICE{'ABCD'[z // 2]}.{'FF' if kind == 'TRELLIS_FF' else 'K'}{z % 2}"
