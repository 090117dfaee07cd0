"""Measure something, and print each figure with what it depends on.

Without a name: list the benches. Each is a command of its own: `ciuic bench NAME --help`.
"""

from __future__ import annotations

import argparse
import inspect
from importlib.metadata import EntryPoint, entry_points

from ciuic.errors import UsageError

from . import output
from .parser import run_command, suggestion

GROUP = "ciuic.benches"
"""Entry points of this group are command modules (`ciuic.cli.parser.Command`)."""

EXAMPLES = """
ciuic bench                        list the benches
ciuic bench sim --config tiny      speed of the simulated overlay
ciuic bench sim --json             the same for programs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench``."""
    parser.add_argument("bench", nargs="?", metavar="NAME", help="what to measure")
    parser.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of the bench"
    )


def _benches() -> dict[str, EntryPoint]:
    return {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: p.name)}


def _list(benches: dict[str, EntryPoint]) -> None:
    rows = []
    for name, point in benches.items():
        summary = inspect.cleandoc(point.load().__doc__ or "").partition("\n")[0]
        rows.append({"bench": name, "what it measures": summary})
    output.print_table(rows)


def run(arguments: argparse.Namespace) -> int:
    """Run one bench and return its status."""
    benches = _benches()
    name = arguments.bench
    if name is None:
        _list(benches)
        return 0
    if name not in benches:
        known = ", ".join(benches)
        raise UsageError(f"bench must be one of {known}, not {name!r}{suggestion(name, benches)}")
    return run_command(f"ciuic bench {name}", benches[name].load(), arguments.arguments)
