"""How close the softmax engine comes to its lane rate, and its results to float64, on RTL.

Each row is one shape in one pair of formats, a descriptor for each head, all submitted together,
from the doorbell to the interrupt. ``bound`` says what limits it: the lanes (words of ``lanes``
elements, a cycle each) or the bus (beats of the wider of scores and results; it reads and writes
at the same time). The memory is "ideal" (a cycle of latency, never a stall) or "ddr" (64 cycles,
one transfer of ten a cycle late).

No single descriptor can fill the lanes: its first row is read and exponentiated before its first
result comes, so ``rows`` rows take the time of at least ``rows + 2``.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

import numpy as np

from ciuic.abi import OverlayConfig
from ciuic.cli.parser import run_command
from ciuic.reference.softmax import MAX_ERROR

from .case_report import add_arguments, run_cases
from .cases import Taken
from .softmax_cases import Case, all_cases

__all__ = ["Row", "add_arguments", "row_of", "run"]

EXAMPLES = """
ciuic bench softmax                        the configuration sim, both memories
ciuic bench softmax --config kv260         another one
ciuic bench softmax --memory ddr --json    one memory, for programs
"""


@dataclass(frozen=True)
class Row:
    """What was measured of one case.

    Parameters
    ----------
    config, memory
        What it ran on.
    heads
        Descriptors submitted together.
    rows, cols
        Shape of each.
    in_format, out_format
        Names of the formats; "in" and "out" in JSON.
    cycles
        From the doorbell to the interrupt.
    elements
        Of all heads.
    lane_utilization
        Those over what the lanes could take in these cycles.
    bus_utilization
        Beats read or written, whichever are more, over cycles.
    bound
        What limits the case: "lanes" or "bus".
    fraction_of_bound
        Cycles that it needs at least, over cycles taken.
    max_abs_error
        Largest difference of a result from the softmax in float64.
    row_sum_error
        Largest difference of a row's sum from one.
    argmax_agreement
        Rows whose largest result is at the largest score, over the rows whose two largest results
        differ by more than the bound of the error; one if there is none.
    """

    config: str
    memory: str
    heads: int
    rows: int
    cols: int
    in_format: str
    out_format: str
    cycles: int
    elements: int
    lane_utilization: float
    bus_utilization: float
    bound: str
    fraction_of_bound: float
    max_abs_error: float
    row_sum_error: float
    argmax_agreement: float


def row_of(config: OverlayConfig, memory: str, case: Case, taken: Taken) -> Row:
    """Return what a case that was run shows."""
    bounds = case.bounds(config)
    bound = "bus" if bounds["bus"] > bounds["lanes"] else "lanes"
    error, sum_error, agreement = accuracy(case, taken)
    return Row(
        config=config.name,
        memory=memory,
        heads=case.heads,
        rows=case.rows,
        cols=case.cols,
        in_format=case.in_format.name,
        out_format=case.out_format.name,
        cycles=taken.cycles,
        elements=case.elements,
        lane_utilization=case.elements / (config.lanes * taken.cycles),
        bus_utilization=max(taken.beats, taken.written) / taken.cycles,
        bound=bound,
        fraction_of_bound=bounds[bound] / taken.cycles,
        max_abs_error=error,
        row_sum_error=sum_error,
        argmax_agreement=agreement,
    )


def accuracy(case: Case, taken: Taken) -> tuple[float, float, float]:
    """Return the largest error, the largest error of a row's sum, and argmax agreement."""
    error = sum_error = 0.0
    clear_rows = agreeing = 0
    unit = 2.0 ** -(8 * case.out_format.nbytes)
    for scores, raw in zip(case.scores(), taken.results, strict=True):
        results = raw * unit
        powers = np.exp(case.scale.value * (scores.astype(np.float64) - scores.max(1)[:, None]))
        exact = powers / powers.sum(axis=1, keepdims=True)
        error = max(error, float(np.abs(results - exact).max()))
        sum_error = max(sum_error, float(np.abs(results.sum(axis=1) - 1).max()))
        second, first = np.sort(exact, axis=1)[:, -2:].T
        clear = first - second > MAX_ERROR[case.out_format]
        clear_rows += int(clear.sum())
        agreeing += int((results.argmax(1) == exact.argmax(1))[clear].sum())
    return error, sum_error, agreeing / clear_rows if clear_rows else 1.0


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    return run_cases(
        arguments,
        all_cases,
        row_of,
        fields=_fields,
        shown=_shown,
    )


def _fields(row: Row) -> dict[str, object]:
    names = {"in_format": "in", "out_format": "out"}
    return {names.get(name, name): value for name, value in vars(row).items()}


def _shown(row: Row) -> dict[str, object]:
    return {
        "config": row.config,
        "memory": row.memory,
        "heads": row.heads,
        "rows x cols": f"{row.rows} x {row.cols}",
        "formats": f"{row.in_format} to {row.out_format}",
        "cycles": row.cycles,
        "lanes": f"{row.lane_utilization:.1%}",
        "bus": f"{row.bus_utilization:.1%}",
        "bound": row.bound,
        "of bound": f"{row.fraction_of_bound:.3f}",
        "error": f"{row.max_abs_error:.1e}",
        "sum": f"{row.row_sum_error:.1e}",
        "argmax": f"{row.argmax_agreement:.0%}",
    }


if __name__ == "__main__":
    sys.exit(run_command("python -m ciuic_sim.softmax_bench", sys.modules[__name__], sys.argv[1:]))
