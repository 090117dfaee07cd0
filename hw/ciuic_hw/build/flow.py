"""The steps of a build: netlist, synthesis, place and route. Each leaves its files in a folder."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..sources import build_hash
from . import tools
from .absorb import absorb
from .boards import HEADROOM, Board

__all__ = ["Build", "Clock", "Report", "Use", "build", "synthesize"]

STEPS = ("netlist", "synthesis", "place and route")

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Use:
    """How much of one resource is used, in the units of the part's data sheet."""

    resource: str
    used: float
    available: int

    @property
    def share(self) -> float:
        """Used over available."""
        return self.used / self.available

    @property
    def fits(self) -> bool:
        """Whether the rest leaves `HEADROOM`."""
        return self.share <= HEADROOM


@dataclass(frozen=True)
class Clock:
    """Timing after place and route.

    Parameters
    ----------
    hz
        Highest frequency of the worst path.
    wanted_hz
        What was wanted.
    source, sink
        The worst path's first and last cell.
    """

    hz: float
    wanted_hz: float
    source: str
    sink: str

    @property
    def slack(self) -> float:
        """Seconds that the worst path leaves of the wanted period; negative if it is too long."""
        return 1 / self.wanted_hz - 1 / self.hz


@dataclass(frozen=True)
class Build:
    """What a build found.

    Parameters
    ----------
    board, config, part
        What was built and for what.
    build_hash
        Identity of the gateware, as in the overlay's registers.
    tools
        Package -> version.
    uses
        Use of each resource.
    clock
        Timing, where the board was placed and routed.
    """

    board: str
    config: str
    part: str
    build_hash: int
    tools: Mapping[str, str]
    uses: tuple[Use, ...]
    clock: Clock | None

    @property
    def fits(self) -> bool:
        """Whether every resource leaves headroom."""
        return all(use.fits for use in self.uses)


def build(
    board: Board,
    folder: Path,
    *,
    route: bool = True,
    clock_hz: float = 150e6,
    seed: int = 1,
    report: Report = lambda what, done, total: None,
) -> Build:
    """Synthesize a board's overlay; place and route it where nextpnr knows the part.

    The overlay is placed out of context: its ports are not bound to pins, paths from and to them
    are not timed.

    Parameters
    ----------
    folder
        Where netlists, logs and reports go; made if absent.
    route
        Whether to place and route at all.
    clock_hz
        Wanted clock of the placed design, in Hz.
    seed
        Of the placement.
    report
        Called after each step.

    Raises
    ------
    ToolMissing
        If a program is not installed.
    DeviceError
        If one of them failed.
    """
    from ..verilog import TOP, rtlil_text

    folder.mkdir(parents=True, exist_ok=True)
    routed = route and bool(board.nextpnr)
    steps = len(STEPS) if routed else 2
    report(board.name, 0, steps)
    (folder / "overlay.il").write_text(rtlil_text(board.config))
    report(board.name, 1, steps)
    packages = [tools.YOSYS]
    uses = synthesize(board, folder, TOP)
    report(board.name, 2, steps)
    clock = None
    if routed:
        packages.append(tools.NEXTPNR)
        uses, clock = _route(board, folder, TOP, clock_hz, seed)
        report(board.name, 3, steps)
    return Build(
        board=board.name,
        config=board.config.name,
        part=board.part,
        build_hash=build_hash(),
        tools=tools.versions(*packages),
        uses=uses,
        clock=clock,
    )


def synthesize(board: Board, folder: Path, top: str) -> tuple[Use, ...]:
    """Run Yosys on ``overlay.il`` in a folder; return what the cells of its netlist take."""
    # No word is used that was read while it was written, so no logic need stand for that case.
    memories = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i; "
    script = f"read_rtlil overlay.il; {memories}{board.synthesize} -top {top}; "
    tools.yosys(script + "write_json overlay.json; tee -q -o cells.json stat -json", folder=folder)
    text = (folder / "cells.json").read_text()
    return _uses(board, json.loads(text)["design"]["num_cells_by_type"])


def _uses(board: Board, cells: Mapping[str, int]) -> tuple[Use, ...]:
    return tuple(
        Use(
            name,
            math.ceil(2 * sum(cells.get(cell, 0) * one for cell, one in kind.cells.items())) / 2,
            kind.available,
        )
        for name, kind in board.resources.items()
    )


def _route(
    board: Board, folder: Path, top: str, clock_hz: float, seed: int
) -> tuple[tuple[Use, ...], Clock]:
    """Move registers into hard blocks, place and route; return what was used, and the timing."""
    netlist = json.loads((folder / "overlay.json").read_text())
    absorb(netlist["modules"][top])
    (folder / "overlay.json").write_text(json.dumps(netlist))
    options = [
        *board.nextpnr,
        *("--json", "overlay.json", "--out-of-context", "--seed", str(seed)),
        *("--freq", f"{clock_hz / 1e6:.3f}", "--timing-allow-fail"),
        *("--report", "route.json"),
    ]
    tools.nextpnr(options, folder=folder)
    found = json.loads((folder / "route.json").read_text())
    (hz,) = (one["achieved"] * 1e6 for one in found["fmax"].values())
    (path,) = (
        one["path"]
        for one in found["critical_paths"]
        if one["from"].startswith("posedge") and one["to"] == one["from"]
    )
    placed = found["utilization"]
    uses = tuple(
        Use(name, placed[kind.bel]["used"], kind.available)
        for name, kind in board.resources.items()
    )
    return uses, Clock(hz, clock_hz, path[0]["from"]["cell"], path[-1]["to"]["cell"])
