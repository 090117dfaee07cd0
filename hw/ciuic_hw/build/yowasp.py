"""The flow whose tools are on PyPI: synthesis for all boards; for ECP5 a bitstream, too.

Yosys ─► absorb ─► nextpnr-ecp5 places ─► refine ─► it routes ─► the PLL's clock ─► ecppack
"""

import json
from pathlib import Path

from ciuic.errors import DeviceError

from ..sources import build_hash
from . import tools
from .absorb import absorb
from .boards import Board
from .flow import Bitstream, Build, Clock, Report, Use, name_bitstream, synthesize
from .pll import fastest, with_pll
from .refine import refine

__all__ = ["build", "constraints"]

TOP = "ciuic_top"
STEPS = ("netlist", "synthesis", "placement", "better places", "routing", "bitstream")
CRYSTAL = "clk"  # the port
ASKED = 0.87  # of the period, of paths with estimated wires; some routed ones are 0.8 ns longer


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

    What is placed and routed is `ciuic_hw.ecp5.system.Ecp5Top`, and becomes a bitstream with the
    fastest clock that its PLL makes and that is in time. On other boards it is the overlay alone.

    Parameters
    ----------
    folder
        Where netlists, logs, reports and the bitstream go; made if absent.
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
    folder.mkdir(parents=True, exist_ok=True)
    routed = route and bool(board.nextpnr)
    steps = len(STEPS) if routed else 2
    gateware = build_hash()  # the sources may change while tools run
    report(board.name, 0, steps)
    (folder / "overlay.il").write_text(_netlist(board))
    report(board.name, 1, steps)
    packages = [tools.YOSYS]
    uses = synthesize(board, folder, TOP)
    report(board.name, 2, steps)
    clock = bitstream = None
    if routed:
        packages.append(tools.NEXTPNR)
        _place(board, folder, clock_hz, seed)
        report(board.name, 3, steps)
        _refine(folder, clock_hz)
        report(board.name, 4, steps)
        uses, clock = _route(board, folder, clock_hz)
        report(board.name, 5, steps)
        bitstream = _pack(board, folder, clock)
        report(board.name, 6, steps)
    return Build(
        board=board.name,
        config=board.config.name,
        part=board.part,
        build_hash=gateware,
        tools=tools.versions(*packages),
        uses=uses,
        clock=clock,
        bitstream=bitstream,
    )


def _netlist(board: Board) -> str:
    from amaranth.back import rtlil

    from ..ecp5.system import Ecp5Top
    from ..overlay import Overlay

    design = Ecp5Top(board.config) if board.nextpnr else Overlay(board.config)
    return rtlil.convert(design, name=TOP, emit_src=False)


def constraints(board: Board) -> str:
    """Return the pins of a board as Lattice's tools read them (LPF)."""
    return "".join(
        f'LOCATE COMP "{port}" SITE "{pin}";\nIOBUF PORT "{port}" IO_TYPE=LVCMOS33;\n'
        for port, pin in board.pins.items()
    )


def _place(board: Board, folder: Path, clock_hz: float, seed: int) -> None:
    """Move registers into hard blocks, and place."""
    netlist = json.loads((folder / "overlay.json").read_text())
    absorb(netlist["modules"][TOP])
    (folder / "overlay.json").write_text(json.dumps(netlist))
    (folder / "overlay.lpf").write_text(constraints(board))
    options = [
        *("--json", "overlay.json", "--lpf", "overlay.lpf", "--seed", str(seed)),
        *("--placer", "static"),  # two thirds of the wire of nextpnr's own
        *("--no-route", "--write", "placed.json"),
    ]
    _nextpnr(board, folder, clock_hz, options)


def _refine(folder: Path, clock_hz: float) -> None:
    design = json.loads((folder / "placed.json").read_text())
    refine(design, ASKED * 1e12 / clock_hz)
    (folder / "refined.json").write_text(json.dumps(design))


def _route(board: Board, folder: Path, clock_hz: float) -> tuple[tuple[Use, ...], Clock]:
    """Route what is placed; return what was used, and the timing."""
    options = [
        *("--json", "refined.json", "--no-pack", "--router", "router1", "--seed", "1"),
        *("--report", "route.json", "--textcfg", "overlay.config"),
    ]
    _nextpnr(board, folder, clock_hz, options)
    found = json.loads((folder / "route.json").read_text())
    placed = found["utilization"]
    uses = tuple(
        Use(name, placed[kind.bel]["used"], kind.available)
        for name, kind in board.resources.items()
    )
    return uses, _timing(found, clock_hz)


def _nextpnr(board: Board, folder: Path, clock_hz: float, options: list[str]) -> None:
    clock = ("--freq", f"{clock_hz / 1e6:.3f}", "--timing-allow-fail")
    tools.nextpnr([*board.nextpnr, *clock, *options], folder=folder)


def _timing(found: dict, wanted_hz: float) -> Clock:
    """Return the timing of the PLL's clock; that of the crystal must be good enough."""
    from ..ecp5.system import CRYSTAL_HZ

    hz = {name: one["achieved"] * 1e6 for name, one in found["fmax"].items()}
    (line,) = (name for name in hz if f"${CRYSTAL}$" in name)
    # The PLL's clock has two parts: behind the gate is the overlay, before it what opens the gate.
    core = min(hz.keys() - {line}, key=lambda name: hz[name])
    if hz[line] < CRYSTAL_HZ:
        raise DeviceError(f"serial line must run at {CRYSTAL_HZ / 1e6:g} MHz, not {hz[line] / 1e6}")
    (path,) = (
        one["path"]
        for one in found["critical_paths"]
        if one["from"] == one["to"] == f"posedge {core}"
    )
    return Clock(hz[core], wanted_hz, path[0]["from"]["cell"], path[-1]["to"]["cell"])


def _pack(board: Board, folder: Path, clock: Clock) -> Bitstream:
    from ..ecp5.system import CRYSTAL_HZ

    pll = fastest(CRYSTAL_HZ, clock.hz)
    text = (folder / "overlay.config").read_text()
    (folder / "overlay.config").write_text(with_pll(text, pll))
    tools.ecppack(["--compress", "overlay.config", "overlay.bit"], folder=folder)
    return name_bitstream(folder / "overlay.bit", board, pll.hz)
