"""How close attention comes to the limit of the array or of its memory ports, and to float64.

Each row is the attention of one layer, its descriptors submitted together, from the doorbell to
the interrupt. ``fraction_of_bound`` is the cycles that the array (multiply-accumulates of scores
and of values over its PEs) or the memory ports (keys and values read once for each head that has
them) need at least, whichever is larger, over the cycles taken. The memory is "ideal" (a cycle of
latency, never a stall) or "ddr" (64 cycles, one transfer of ten a cycle late).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass

from ciuic.abi import OverlayConfig
from ciuic.cli.parser import run_command

from .attention_cases import Case, all_cases
from .case_report import add_arguments, run_cases
from .cases import Taken

__all__ = ["Row", "add_arguments", "row_of", "run"]

EXAMPLES = """
ciuic bench attention                        the configuration sim, both memories
ciuic bench attention --config kv260         another one
ciuic bench attention --memory ddr --json    one memory, for programs
"""


@dataclass(frozen=True)
class Row:
    """What was measured of one case.

    Parameters
    ----------
    config, memory
        What it ran on.
    heads, kv_heads, m, t, d
        Heads of queries, heads of keys and values, queries of each head, keys, size of a head.
    cycles
        From the doorbell to the interrupt.
    macs
        Multiply-accumulates of scores and of values.
    array_utilization
        Those over what the array could do in these cycles.
    bytes_read
        Over all ports.
    bytes_if_unfused
        What GEMM, softmax and GEMM of each head would read.
    bus_utilization
        Beats read over those that the ports could carry in these cycles.
    bound
        What limits the case: "compute" or "memory".
    fraction_of_bound
        Cycles that it needs at least, over cycles taken.
    max_abs_error
        Largest difference of a result from attention in float64, of values from -1 to 1.
    """

    config: str
    memory: str
    heads: int
    kv_heads: int
    m: int
    t: int
    d: int
    cycles: int
    macs: int
    array_utilization: float
    bytes_read: int
    bytes_if_unfused: int
    bus_utilization: float
    bound: str
    fraction_of_bound: float
    max_abs_error: float


def row_of(config: OverlayConfig, memory: str, case: Case, taken: Taken) -> Row:
    """Return what a case that was run shows."""
    bounds = case.bounds(config)
    bound = max(bounds, key=lambda name: bounds[name])
    return Row(
        config=config.name,
        memory=memory,
        heads=case.heads,
        kv_heads=case.kv_heads,
        m=case.m,
        t=case.t,
        d=case.d,
        cycles=taken.cycles,
        macs=case.macs,
        array_utilization=case.macs / (config.macs_per_cycle * taken.cycles),
        bytes_read=taken.beats * config.bus_bytes,
        bytes_if_unfused=case.unfused_bytes(),
        bus_utilization=taken.beats / (config.ports * taken.cycles),
        bound=bound,
        fraction_of_bound=bounds[bound] / taken.cycles,
        max_abs_error=case.error(taken.results),
    )


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    return run_cases(
        arguments,
        all_cases,
        row_of,
        fields=asdict,
        shown=_shown,
    )


def _shown(row: Row) -> dict[str, object]:
    return {
        "config": row.config,
        "memory": row.memory,
        "heads": f"{row.heads} / {row.kv_heads}",
        "M x T x d": f"{row.m} x {row.t} x {row.d}",
        "cycles": row.cycles,
        "array": f"{row.array_utilization:.1%}",
        "bus": f"{row.bus_utilization:.1%}",
        "bound": row.bound,
        "of bound": f"{row.fraction_of_bound:.3f}",
        "MB read": f"{row.bytes_read / 1e6:.2f}",
        "unfused": f"{row.bytes_if_unfused / 1e6:.2f}",
        "error": f"{row.max_abs_error:.1e}",
    }


if __name__ == "__main__":
    sys.exit(
        run_command("python -m ciuic_sim.attention_bench", sys.modules[__name__], sys.argv[1:])
    )
