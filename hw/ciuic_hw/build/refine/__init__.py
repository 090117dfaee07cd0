"""Better places for the cells on the longest paths of a placed ECP5.

nextpnr's placers weigh paths by how long they are compared with the longest one. One path that runs
across the chip thus makes all others look short, and the refinement that follows moves cells by
three tiles only. Here every path counts by how far it is from the goal, cells go to where the paths
through them are shortest, and what holds one another in place moves together.

Read in this order: `delays`, `netlist`, `timing`, `sites`, `cost`, `search`.
"""

from .netlist import Netlist
from .search import Search

__all__ = ["refine"]

GOALS = (1.12, 1.05, 1.0)  # times the wanted period, one after another
SWEEPS = 3
LAST_SWEEPS = 10  # at most; until only a few cells move
FEW = 10
LOCKED = f"{5:032b}"  # nextpnr's STRENGTH_LOCKED
TRIES = 12  # groups, after the sweeps of a goal


def refine(design: dict, period: float) -> tuple[float, float]:
    """Move cells of a placed design, in place.

    Parameters
    ----------
    design
        JSON of nextpnr-ecp5 (``--write``) after placement. Places change (``NEXTPNR_BEL``), and all
        that keeps nextpnr from reading it as it was written.
    period
        That paths should have at most, in ps.

    Returns
    -------
    tuple
        Longest path before and after, in ps, with estimated wires.
    """
    (module,) = design["modules"].values()
    netlist = Netlist(module)
    search = Search(netlist, period)
    before = float(search.timing.paths().max())
    for share in GOALS:
        search.cost.goal = share * period
        for _ in range(SWEEPS):
            search.sweep()
        for _ in range(2):
            if not search.regroup(TRIES):
                break
            search.sweep()
    for _ in range(LAST_SWEEPS):
        if search.sweep() < FEW:
            break
    for number, cell in enumerate(netlist.cells):
        if netlist.bels[number]:
            cell["attributes"]["NEXTPNR_BEL"] = search.sites.bel(number)
    _for_rereading(module)
    return before, float(search.timing.paths().max())


def _for_rereading(module: dict) -> None:
    """Let nextpnr read its own JSON as it wrote it, and keep all places.

    Pins without a net would be forgotten, and with them the constants that blocks need there. Which
    LUTs carry or are a RAM is known to the router only once they are bound again. The placer HeAP
    does that, and then looks whether all places are legal; locked, cells stay where they are.
    """
    module["settings"]["placer"] = "heap"
    for cell in module["cells"].values():
        attributes, connections = cell["attributes"], cell["connections"]
        if "NEXTPNR_BEL" in attributes:
            attributes["BEL_STRENGTH"] = max(attributes["BEL_STRENGTH"], LOCKED)
        for pin, bits in connections.items():
            connections[pin] = bits or ["x"]
