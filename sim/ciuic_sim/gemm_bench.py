"""How close the GEMM engine comes to the limit of its array or of its memory ports, on RTL.

Each row is one descriptor, or the seven linear layers of a SmolLM2 block submitted together, from
the doorbell to the interrupt. ``fraction_of_bound`` is the cycles that the array (multiply-
accumulates over its PEs) or the memory ports (beats in which operands can be read once, or results
be written) need at least, whichever is larger, over the cycles taken. The memory is "ideal" (a
cycle of latency, never a stall) or "ddr" (64 cycles, one transfer of ten a cycle late).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict, dataclass

from ciuic.abi import OverlayConfig
from ciuic.cli.parser import run_command

from .case_report import add_arguments, run_cases
from .cases import Taken
from .gemm_cases import Case, all_cases

__all__ = ["Row", "add_arguments", "row_of", "run"]

EXAMPLES = """
ciuic bench gemm                        the configuration sim, both memories
ciuic bench gemm --config kv260         another one
ciuic bench gemm --memory ddr --json    one memory, for programs
"""


@dataclass(frozen=True)
class Row:
    """What was measured of one case.

    Parameters
    ----------
    config, memory
        What it ran on.
    layers
        Descriptors submitted together; ``k`` and ``n`` are None if there are several.
    m, k, n, weights
        Shape, and "w8" or "w4".
    cycles
        From the doorbell to the interrupt.
    macs
        Useful multiply-accumulates.
    array_utilization
        Those over what the array could do in these cycles.
    bus_beats_used
        Beats that the engine read, over all ports.
    bus_utilization
        Those over the beats that the ports could carry in these cycles.
    bound
        What limits the case: "compute" or "memory".
    fraction_of_bound
        Cycles that it needs at least, over cycles taken.
    """

    config: str
    memory: str
    layers: int
    m: int
    k: int | None
    n: int | None
    weights: str
    cycles: int
    macs: int
    array_utilization: float
    bus_beats_used: int
    bus_utilization: float
    bound: str
    fraction_of_bound: float


def row_of(config: OverlayConfig, memory: str, case: Case, taken: Taken) -> Row:
    """Return what a case that was run shows."""
    bounds = case.bounds(config)
    bound = max(bounds, key=lambda name: bounds[name])
    m, k, n = case.shapes[0]
    single = len(case.shapes) == 1
    return Row(
        config=config.name,
        memory=memory,
        layers=len(case.shapes),
        m=m,
        k=k if single else None,
        n=n if single else None,
        weights="w4" if case.w4 else "w8",
        cycles=taken.cycles,
        macs=case.macs,
        array_utilization=case.macs / (config.macs_per_cycle * taken.cycles),
        bus_beats_used=taken.beats,
        bus_utilization=taken.beats / (config.ports * taken.cycles),
        bound=bound,
        fraction_of_bound=bounds[bound] / taken.cycles,
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
    shape = f"{row.m} x {row.k} x {row.n}" if row.layers == 1 else f"{row.m}, {row.layers} layers"
    return {
        "config": row.config,
        "memory": row.memory,
        "M x K x N": shape,
        "weights": row.weights,
        "cycles": row.cycles,
        "array": f"{row.array_utilization:.1%}",
        "bus": f"{row.bus_utilization:.1%}",
        "bound": row.bound,
        "of bound": f"{row.fraction_of_bound:.3f}",
    }


if __name__ == "__main__":
    sys.exit(run_command("python -m ciuic_sim.gemm_bench", sys.modules[__name__], sys.argv[1:]))
