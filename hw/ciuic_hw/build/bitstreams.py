"""List what was built for boards: bitstreams where there are any, or the reports of builds alone.

Says which builds are of older gateware than this one, or of another ABI. With --verify the files
are compared with the manifest, too; the exit status is 1 if one differs or is not there, or the ABI
of a bitstream is another.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ciuic.cli import output
from ciuic.overlays import FOLDER, Entry, read_manifest

from ..sources import build_hash

__all__ = ["EXAMPLES", "add_arguments", "run"]

EXAMPLES = """
ciuic bitstreams
ciuic bitstreams --verify
ciuic bitstreams --folder /home/xilinx/ciuic --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bitstreams``."""
    parser.add_argument(
        "--folder", type=Path, default=FOLDER, metavar="DIR", help="of the manifest (Ciuic's own)"
    )
    parser.add_argument("--verify", action="store_true", help="compare the files, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the builds; return the exit status."""
    folder: Path = arguments.folder
    present = build_hash()
    rows = []
    for entry in read_manifest(folder):
        problems = entry.problems(folder) if arguments.verify else []
        rows.append(_row(entry, present) | {"problems": problems})
    if arguments.json:
        output.print_json({"folder": folder, "build_hash": f"{present:08x}", "builds": rows})
    else:
        _show(folder, present, rows)
    return int(any(row["problems"] for row in rows))


def _row(entry: Entry, present: int) -> dict[str, object]:
    return {
        "board": entry.board,
        "configuration": entry.configuration,
        "part": entry.part,
        "state": "bitstream" if entry.bitstream else "report only",
        "bitstream": entry.bitstream,
        "clock_hz": entry.clock_hz,
        "abi_version": entry.abi_version,
        "other_abi": not entry.has_this_abi,
        "build_hash": f"{entry.build_hash:08x}",
        "older": entry.build_hash != present,
        "report": entry.report,
        "tools": dict(entry.tools),
    }


def _show(folder: Path, present: int, rows: list[dict[str, object]]) -> None:
    print(f"{folder}; this gateware is {present:08x}\n")
    output.print_table(
        [
            {
                "board": row["board"],
                "configuration": row["configuration"],
                "state": row["state"],
                "clock (MHz)": row["clock_hz"] and row["clock_hz"] / 1e6,
                "ABI": f"{row['abi_version']}{' (another)' if row['other_abi'] else ''}",
                "gateware": f"{row['build_hash']}{' (older)' if row['older'] else ''}",
                "file": row["bitstream"] or row["report"],
            }
            for row in rows
        ]
    )
    for row in rows:
        for problem in row["problems"]:
            print(f"{row['board']}, {row['configuration']}: {problem}")
    for row in rows:
        if row["older"]:
            print(f"{row['board']}: older than this gateware; `ciuic build` makes it anew")
