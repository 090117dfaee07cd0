"""Synthesize an overlay for a board with open tools, and show what it takes of the part.

ecp5-85f is also placed, routed and timed, and becomes a bitstream for the board ULX3S-85F, which
needs no processors: requests come over a serial line to registers and block RAM (see
`ciuic.abi.serial`). With --flow openxc7 pynq-z2 becomes one, too, if nextpnr-xilinx and Project
X-Ray are on the PATH. A bitstream is for the fastest clock that is in time, which may be slower
than wanted. Without a board: list the boards.

The exit status is 0 if all is well, 1 if a resource is used beyond 80 % or the wanted clock is
missed, 2 if something is wrong with the arguments or a program is missing or failed.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from ciuic.cli import output
from ciuic.errors import UsageError

from . import openxc7
from .boards import BOARDS, HEADROOM, Board, board
from .flow import Build, Report
from .publish import check_folder, publish
from .yowasp import build

__all__ = ["EXAMPLES", "add_arguments", "run"]

EXAMPLES = """
ciuic build                                  list the boards
ciuic build --board pynq-z2                  synthesize: a minute or two
ciuic build --board ecp5-85f --synth-only    without place and route
ciuic build --board ecp5-85f --clock 40      place and route for 40 MHz: twenty minutes or more
ciuic build --board pynq-z2 --synth-only     the same as without --synth-only
ciuic build --board pynq-z2 --flow openxc7 --synth-only     with the processing system
ciuic build --board pynq-z2 --flow openxc7 --chipdb xc7z020.bin --prjxray-db prjxray-db
                                             a .bit and its .hwh
ciuic build --board ecp5-85f --publish bitstreams     for `ciuic bitstreams` to list
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
    parser.add_argument("--seed", type=int, help="of the placement (default: the board's)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="where netlists, logs and the bitstream go (default: build/BOARD)",
    )
    parser.add_argument(
        "--publish",
        type=Path,
        metavar="DIR",
        help="also put report, bitstream and a row of manifest.toml into a folder",
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


def run(arguments: argparse.Namespace) -> int:
    """Build and print; return the exit status."""
    if arguments.board is None:
        _list(as_json=arguments.json)
        return 0
    target = board(arguments.board)
    folder = arguments.output or Path("build") / target.name
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output must be a folder, not the file {str(folder)!r}")
    if arguments.publish is not None:
        check_folder(arguments.publish)
    prepare = _openxc7 if arguments.flow == "openxc7" else _yowasp
    start = prepare(target, arguments)
    with output.progress() as report:
        found = start(folder, report)
    value = _plain(found)
    if arguments.publish is not None:
        publish(arguments.publish, found, value)
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
        seed=target.seed if arguments.seed is None else arguments.seed,
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
        seed=target.seed if arguments.seed is None else arguments.seed,
        report=report,
    )


def _list(*, as_json: bool) -> None:
    rows = [
        {
            "board": one.name,
            "part": one.part,
            "configuration": one.config.name,
            "array": f"{one.config.rows}x{one.config.cols}",
            "bitstream": bool(one.nextpnr),
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
    if found.bitstream is not None:
        value["bitstream"]["path"] = found.bitstream.path.name
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
    if found.bitstream is not None:
        print(f"\n{found.bitstream.path}, for {found.bitstream.clock_hz / 1e6:.1f} MHz")
