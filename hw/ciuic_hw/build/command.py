"""Synthesize an overlay for a board with open tools, and show what it takes of the part.

ecp5-85f is also placed, routed and timed. With --flow openxc7, pynq-z2 is too, and becomes a
bitstream, if nextpnr-xilinx and Project X-Ray are on the PATH. Without a board: list the boards.

The exit status is 0 if all is well, 1 if a resource is used beyond 80 % or the wanted clock is
missed, 2 if something is wrong with the arguments or a program is missing or failed.
"""

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ciuic.cli import output
from ciuic.errors import UsageError

from . import openxc7
from .boards import BOARDS, HEADROOM, Board, board
from .flow import Build, Report, build

__all__ = ["EXAMPLES", "add_arguments", "run"]

EXAMPLES = """
ciuic build                                  list the boards
ciuic build --board pynq-z2                  synthesize: a minute or two
ciuic build --board ecp5-85f --synth-only    without place and route
ciuic build --board ecp5-85f --clock 40      place and route for 40 MHz: some twenty minutes
ciuic build --board pynq-z2 --synth-only     the same as without --synth-only
ciuic build --board pynq-z2 --flow openxc7 --synth-only     with the processing system
ciuic build --board pynq-z2 --flow openxc7 --chipdb xc7z020.bin --prjxray-db prjxray-db
                                             ciuic.bit and ciuic.hwh
"""
FLOWS = ("yowasp", "openxc7")
WANTED_MHZ = 150.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic build``."""
    parser.add_argument("--board", metavar="NAME", help="what to build for")
    parser.add_argument(
        "--synth-only",
        action="store_true",
        help="do not place and route; kv260 never is, pynq-z2 only with --flow openxc7",
    )
    parser.add_argument(
        "--flow",
        choices=FLOWS,
        default=FLOWS[0],
        help="tools: those on PyPI (default), or openXC7's for a bitstream of pynq-z2",
    )
    parser.add_argument(
        "--chipdb", type=Path, metavar="FILE", help="openxc7: nextpnr-xilinx' file of the part"
    )
    parser.add_argument(
        "--prjxray-db", type=Path, metavar="DIR", help="openxc7: Project X-Ray's database"
    )
    parser.add_argument(
        "--clock",
        type=_megahertz,
        metavar="MHZ",
        help="wanted clock of what is placed and routed (default: 150; with openxc7 the board's)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of the placement (default: 1)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where netlists and logs go (default: build/BOARD)",
    )
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="also write the figures to a file, as JSON"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _megahertz(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"clock must be from 1 to 1000 MHz, not {text!r}")
    return value


def _check_paths(folder: Path, report: Path | None) -> None:
    """Refuse what could not be written after a long build."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output must be a folder, not the file {str(folder)!r}")
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise UsageError(f"--report must be a file in a folder that exists, not {str(report)!r}")


def run(arguments: argparse.Namespace) -> int:
    """Build and print; return the exit status."""
    if arguments.board is None:
        _list(as_json=arguments.json)
        return 0
    target = board(arguments.board)
    folder = arguments.output or Path("build") / target.name
    _check_paths(folder, arguments.report)
    prepare = _openxc7 if arguments.flow == "openxc7" else _yowasp
    start = prepare(target, arguments)
    with output.progress() as report:
        found = start(folder, report)
    value = _plain(found)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(value, indent=2) + "\n")
    if arguments.json:
        output.print_json(value)
    else:
        _show(found)
    in_time = found.clock is None or found.clock.slack >= 0
    return 0 if found.fits and in_time else 1


Start = Callable[[Path, Report], Build]


def _yowasp(target: Board, arguments: argparse.Namespace) -> Start:
    if arguments.chipdb or arguments.prjxray_db:
        raise UsageError("--chipdb and --prjxray-db are for --flow openxc7")
    clock = WANTED_MHZ if arguments.clock is None else arguments.clock
    return lambda folder, report: build(
        target,
        folder,
        route=not arguments.synth_only,
        clock_hz=clock * 1e6,
        seed=arguments.seed,
        report=report,
    )


def _openxc7(target: Board, arguments: argparse.Namespace) -> Start:
    openxc7.check_board(target)
    files = None
    if not arguments.synth_only:
        files = openxc7.databases(target, arguments.chipdb, arguments.prjxray_db)
    return lambda folder, report: openxc7.build(
        target,
        folder,
        files=files,
        clock_hz=arguments.clock and arguments.clock * 1e6,
        seed=arguments.seed,
        report=report,
    )


def _list(*, as_json: bool) -> None:
    rows = [
        {
            "board": one.name,
            "part": one.part,
            "configuration": one.config.name,
            "array": f"{one.config.rows}x{one.config.cols}",
            "placed and routed": bool(one.nextpnr),
        }
        for one in BOARDS.values()
    ]
    if as_json:
        output.print_json(rows)
    else:
        output.print_table(rows)


def _plain(found: Build) -> dict[str, object]:
    value = asdict(found)
    value["build_hash"] = f"{found.build_hash:08x}"
    value["uses"] = [
        {**asdict(use), "share": round(use.share, 4), "fits": use.fits} for use in found.uses
    ]
    if found.clock is not None:
        value["clock"]["slack"] = found.clock.slack
    return value


def _show(found: Build) -> None:
    tools = ", ".join(f"{name} {version}" for name, version in found.tools.items())
    print(f"{found.board}: configuration {found.config}, {found.part}")
    print(f"gateware {found.build_hash:08x}; {tools}\n")
    output.print_table(
        [
            {
                "resource": use.resource,
                "used": use.used,
                "available": use.available,
                "share": f"{use.share:.1%}",
                f"at most {HEADROOM:.0%}": use.fits,
            }
            for use in found.uses
        ]
    )
    if found.clock is not None:
        clock = found.clock
        print(
            f"\nclock {clock.hz / 1e6:.1f} MHz, wanted {clock.wanted_hz / 1e6:.1f} MHz, "
            f"worst slack {clock.slack * 1e9:+.2f} ns"
        )
        print(f"worst path: {clock.source} to {clock.sink}")
