"""What the benches of cases on RTL share: their arguments, and how they run and print."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from ciuic_host.uri import Report, no_report

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.cli import output

from .cases import MEMORIES, Case, Taken, simulate

C = TypeVar("C", bound=Case)
Row = TypeVar("Row")
RowOf = Callable[[OverlayConfig, str, C, Taken], Row]
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


def measure_cases(
    row_of: RowOf[C, Row],
    config: OverlayConfig,
    memory: str,
    cases: list[C],
    report: Report = no_report,
) -> list[Row]:
    """Run cases on the RTL behind a memory; return a row for each."""
    taken = simulate(config, memory, cases, report)
    return [row_of(config, memory, case, one) for case, one in zip(cases, taken, strict=True)]


def run_cases(
    arguments: argparse.Namespace,
    all_cases: Callable[[OverlayConfig], list[C]],
    row_of: RowOf[C, Row],
    *,
    fields: Fields[Row],
    shown: Fields[Row],
) -> int:
    """Measure and print; return the exit status.

    Parameters
    ----------
    arguments
        Those of `add_arguments`.
    all_cases
        Returns what to run on a configuration.
    row_of
        Called with a configuration, a memory, a case and what it took; returns its row.
    fields, shown
        A row for programs, and for people.
    """
    config = CONFIGS[arguments.config]
    rows: list[Row] = []
    with output.progress() as report:
        for memory in arguments.memory or MEMORIES:
            rows += measure_cases(row_of, config, memory, all_cases(config), report)
    if arguments.json:
        output.print_json([fields(row) for row in rows])
    else:
        output.print_table([shown(row) for row in rows])
    return 0
