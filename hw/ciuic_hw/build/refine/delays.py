"""How long signals take on an ECP5 of speed grade 6, in ps.

Cells: the slowest corner of Project Trellis' timing database (https://github.com/YosysHQ/prjtrellis-db,
``ECP5/timing/speed_6/cells.json``), which is what nextpnr adds up. Wires: an estimate, fitted to
36,000 wires of a routed overlay; routed ones scatter about it by 230 ps.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["cell_arcs", "entry", "launch", "setup", "wire"]

WIRE = 670  # the least of a wire between two cells
REACH = 5
NEAR, FAR = (68, 106), (44, 53)  # for each of so many tiles of a row, or column, and beyond
_ENTRY = {  # more, or less, at the end of a wire
    "DP16KD": {
        **dict.fromkeys(("ADA", "ADB", "DIA", "DIB"), 160),
        **dict.fromkeys(("CEA", "CEB", "OCEA", "OCEB", "WEA", "WEB"), -160),
    },
    "MULT18X18D": {"A": 265, "B": 265, "CE": -160},
    "TRELLIS_FF": {"LSR": -160},
}

_LUT = dict.fromkeys("ABCD", 236)
_COMB = {
    **{(pin, "F"): ps for pin, ps in _LUT.items()},
    **dict.fromkeys(((pin, "OFX") for pin in _LUT), 401),
    ("M", "OFX"): 256,
    ("F1", "OFX"): 165,
    ("FXA", "OFX"): 239,
    ("FXB", "OFX"): 242,
}
_CARRY = {  # either half of a slice; 71 ps is what both take, but nextpnr has each take it once it
    # has read its own JSON, which does not say which half is the upper one
    **{(pin, "F"): ps for pin, ps in _LUT.items()},
    **dict.fromkeys(((pin, "FCO") for pin in _LUT), 447),
    **{("FCI", "F"): 443, ("FCI", "FCO"): 71},
}
_LUT_RAM_WRITE = {  # through the slice that holds the write port of a LUT RAM
    **{("A0", "WADO3"): 0, ("B0", "WADO1"): 0, ("C0", "WADO2"): 0, ("D0", "WADO0"): 0},
    **{("A1", "WDO1"): 0, ("B1", "WDO3"): 0, ("C1", "WDO0"): 0, ("D1", "WDO2"): 0},
}

_FF = {"DI": 0, "M": 0, "CE": 0, "LSR": 424}
_LUT_RAM = {"WD": 0, "WAD": 0, "WRE": 392}
_MEMORY = {
    **{"ADA": 251, "DIA": 218, "CEA": 211, "OCEA": 226, "RSTA": 579, "WEA": 139, "CSA": 20},
    **{"ADB": 205, "DIB": 134, "CEB": 340, "OCEB": 253, "RSTB": 585, "WEB": 0, "CSB": 0},
}
_MULTIPLIER = {"A": 84, "B": 84, "CE": 252, "RST": 95, "SIGNEDA": 0, "SIGNEDB": 0}
_SETUP = {
    "TRELLIS_FF": _FF,
    "TRELLIS_COMB": _LUT_RAM,
    "DP16KD": _MEMORY,
    "MULT18X18D": _MULTIPLIER,
}


def _bus(pin: str) -> str:
    return pin.rstrip("0123456789")


def setup(cell: dict, pin: str) -> int | None:
    """Return how long before the clock an input must be there; None if no register is behind it.

    As `launch` and `cell_arcs`, of a cell of nextpnr's JSON.
    """
    kind, bus = cell["type"], _bus(pin)
    if kind == "MULT18X18D" and bus in {"A", "B"} and not _registered(cell, f"REG_INPUT{bus}_CLK"):
        return 3486  # through the multiplier
    return _SETUP.get(kind, {}).get(bus)


def _registered(cell: dict, parameter: str) -> bool:
    return bool(cell["parameters"].get(parameter, "NONE") != "NONE")


def launch(cell: dict, pin: str) -> int | None:
    """Return when an output follows the clock; None if it does not."""
    kind, parameters = cell["type"], cell["parameters"]
    if kind == "TRELLIS_FF":
        return 525
    if kind == "DP16KD":
        port = _bus(pin)[-1]
        registered = parameters.get(f"REGMODE_{port}", "NOREG") == "OUTREG"
        return 973 if registered else 5830
    if kind == "MULT18X18D":
        return 735 if _registered(cell, "REG_OUTPUT_CLK") else 3864
    return None


def cell_arcs(cell: dict) -> dict[tuple[str, str], int]:
    """Return the ways through a cell: (input, output) -> ps."""
    if cell["type"] == "TRELLIS_RAMW":
        return _LUT_RAM_WRITE
    if cell["type"] != "TRELLIS_COMB":
        return {}
    return _CARRY if cell["parameters"].get("MODE") == "CCU2" else _COMB


def wire(dx: NDArray[np.int64], dy: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return what wires take across ``dx`` columns and ``dy`` rows of tiles; see `entry`."""
    ps: NDArray[np.float64] = np.float64(WIRE)
    for tiles, near, far in zip((np.abs(dx), np.abs(dy)), NEAR, FAR, strict=True):
        ps = ps + far * tiles + (near - far) * np.minimum(tiles, REACH)
    return ps


def entry(cell: dict, pin: str) -> int:
    """Return how much longer than `wire` says a wire takes that ends at a pin."""
    return _ENTRY.get(cell["type"], {}).get(_bus(pin), 0)
