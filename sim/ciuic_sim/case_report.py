"""What the benches of cases on RTL share: their arguments, and how they run and print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from ciuic_host.uri import Report

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.cli import output

from .cases import MEMORIES

Row = TypeVar("Row")
Fields = Callable[[Row], dict[str, object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``, ``--memory`` and ``--json``."""
    parser.add_argument(
        "--config", choices=sorted(CONFIGS), default="sim", help="what to run (default: sim)"
    )
    parser.add_argument(
        "--memory",
        action="append",
        choices=sorted(MEMORIES),
        help="memory behind it; may be given several times (default: all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run_cases(
    arguments: argparse.Namespace,
    measure: Callable[[OverlayConfig, str, Report], list[Row]],
    *,
    fields: Fields[Row],
    shown: Fields[Row],
) -> int:
    """Measure and print; return the exit status.

    Parameters
    ----------
    arguments
        Those of `add_arguments`.
    measure
        Called with a configuration and a memory; returns a row for each case.
    fields, shown
        A row for programs, and for people.
    """
    config = CONFIGS[arguments.config]
    rows: list[Row] = []
    with output.progress() as report:
        for memory in arguments.memory or MEMORIES:
            rows += measure(config, memory, report)
    if arguments.json:
        output.print_json([fields(row) for row in rows])
    else:
        output.print_table([shown(row) for row in rows])
    return 0
