"""How well the emulated overlay's cycles match the RTL's, on the cases of the engines' benches.

``error`` is the emulated cycles over the RTL's, less one; the last line is the worst of all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ciuic_host.uri import Report, no_report

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.cli import output
from ciuic.cli.parser import run_command

from . import attention_cases, gemm_cases, softmax_cases
from .case_report import add_arguments
from .cases import MEMORIES, Case, estimate, simulate

__all__ = ["Comparison", "add_arguments", "compare", "run"]

EXAMPLES = """
ciuic bench model                        the configuration sim, both memories
ciuic bench model --config tiny --json   another one, for programs
"""


@dataclass(frozen=True)
class Comparison:
    """One case on the RTL and on the emulation: cycles from the doorbell to the interrupt."""

    config: str
    memory: str
    case: str
    rtl_cycles: int
    emulated_cycles: int

    @property
    def error(self) -> float:
        """Relative error of the emulated cycles."""
        return self.emulated_cycles / self.rtl_cycles - 1


def all_cases(config: OverlayConfig) -> list[Case]:
    """Return the cases of the benches of the engines."""
    return [
        *gemm_cases.all_cases(config),
        *softmax_cases.all_cases(config),
        *attention_cases.all_cases(config),
    ]


def compare(
    config: OverlayConfig, memory: str, cases: Sequence[Case], report: Report = no_report
) -> list[Comparison]:
    """Run cases on both; return a comparison for each."""
    rtl = simulate(config, memory, cases, report)
    emulated = estimate(config, memory, cases, report)
    return [
        Comparison(config.name, memory, str(case), real.cycles, model.cycles)
        for case, real, model in zip(cases, rtl, emulated, strict=True)
    ]


def run(arguments: argparse.Namespace) -> int:
    """Compare and print; return the exit status."""
    config = CONFIGS[arguments.config]
    found: list[Comparison] = []
    with output.progress() as report:
        for memory in arguments.memory or MEMORIES:
            found += compare(config, memory, all_cases(config), report)
    worst = max(found, key=lambda one: abs(one.error))
    if arguments.json:
        rows = [{**asdict(one), "error": one.error} for one in found]
        output.print_json({"rows": rows, "worst": abs(worst.error)})
    else:
        output.print_table([_shown(one) for one in [*found, worst]])
    return 0


def _shown(one: Comparison) -> dict[str, object]:
    return {
        "config": one.config,
        "memory": one.memory,
        "case": one.case,
        "RTL cycles": one.rtl_cycles,
        "emulated cycles": one.emulated_cycles,
        "error": f"{one.error:+.2%}",
    }


if __name__ == "__main__":
    sys.exit(run_command("python -m ciuic_sim.model_bench", sys.modules[__name__], sys.argv[1:]))
