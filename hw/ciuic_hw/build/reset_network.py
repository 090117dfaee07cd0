"""Put the reset on the global network of ECP5, which reaches the set and reset of every register.

nextpnr does so with clocks only. A reset of ten thousand registers and more otherwise fills the
fabric's wires: the overlay then finds no routing. A buffer of the clock network (DCCA, Lattice
FPGA-TN-02200, "Dynamic Clock Control") may be driven from the fabric and drive LSR.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

__all__ = ["FEWEST", "buffer_reset"]

FEWEST = 1000  # registers for which a network is worth it


def buffer_reset(module: dict[str, Any]) -> int:
    """Give the net that resets the most registers a global buffer, in place.

    What is no reset of a register, and reads the net, stays on it.

    Parameters
    ----------
    module
        The top module of Yosys' JSON after ``synth_ecp5``, flat.

    Returns
    -------
    int
        How many registers the buffer resets; 0, and nothing is changed, if fewer than `FEWEST`.
    """
    cells = module["cells"]
    resets: dict[Any, list[dict[str, Any]]] = {}
    for cell in cells.values():
        if cell["type"] == "TRELLIS_FF" and "LSR" in cell["connections"]:
            resets.setdefault(cell["connections"]["LSR"][0], []).append(cell)
    counts = Counter({net: len(of) for net, of in resets.items() if isinstance(net, int)})
    ((net, count),) = counts.most_common(1) or [(0, 0)]
    if count < FEWEST:
        return 0
    nets = (bit for cell in cells.values() for bits in cell["connections"].values() for bit in bits)
    buffered = 1 + max(bit for bit in nets if isinstance(bit, int))
    for cell in resets[net]:
        cell["connections"]["LSR"] = [buffered]
    cells["reset_buffer"] = {
        "hide_name": 0,
        "type": "DCCA",
        "parameters": {},
        "attributes": {},
        "port_directions": {"CLKI": "input", "CE": "input", "CLKO": "output"},
        "connections": {"CLKI": [net], "CE": ["1"], "CLKO": [buffered]},
    }
    module["netnames"]["reset_buffered"] = {"hide_name": 0, "bits": [buffered], "attributes": {}}
    return count
