"""Speed of the simulated overlay: clock cycles and multiply-accumulates in a second.

Runs GEMMs on the overlay's RTL with its memory model, in one thread. ``array`` and ``bus`` are what
the overlay itself reached in simulated time: multiply-accumulates over what its array could do, and
beats over cycles of its read channel; a GEMM of one row is bound by the bus, one of many rows by
the array.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
from ciuic_host.overlay import Overlay
from ciuic_host.uri import Report, no_report

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.cli import output
from ciuic.cli.parser import run_command
from ciuic.errors import UsageError

from .transport import RtlTransport

EXAMPLES = """
ciuic bench sim                      the configurations tiny and sim
ciuic bench sim --config kv260       another one
ciuic bench sim --seconds 10 --json  longer, for programs
"""

USUAL_CONFIGS = ("tiny", "sim")
ROWS = (1, 64)
DEPTH, COLUMNS = 576, 1536  # of a layer of a small model


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What was measured on one configuration with GEMMs of one shape.

    Parameters
    ----------
    config
        Name of the configuration.
    rows, cols
        Shape of its array.
    m, k, n
        Shape of the GEMMs.
    cycles
        Simulated clock cycles.
    seconds
        Wall-clock time of the simulation.
    macs
        Multiply-accumulates.
    array
        Multiply-accumulates over those that the array could do in the GEMMs' cycles.
    bus
        Beats of the read channel over the GEMMs' cycles.
    """

    config: str
    rows: int
    cols: int
    m: int
    k: int
    n: int
    cycles: int
    seconds: float
    macs: int
    array: float
    bus: float

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles in a second."""
        return self.cycles / self.seconds

    @property
    def macs_per_second(self) -> float:
        """Multiply-accumulates in a second."""
        return self.macs / self.seconds


def measure(
    config: OverlayConfig, *, seconds: float = 2.0, report: Report = no_report
) -> list[Speed]:
    """Return the speed of a configuration, one entry for each of `ROWS`.

    Parameters
    ----------
    config
        What to simulate; it is built first if need be.
    seconds
        How long to measure each.
    report
        Called with (what, done, in all) while this goes on.
    """
    transport = RtlTransport(f"fpga:rtl?config={config.name}", config, report=report)
    with Overlay(transport) as overlay:
        return [_measure(overlay, transport, m, seconds, report) for m in ROWS]


def _measure(
    overlay: Overlay, transport: RtlTransport, m: int, seconds: float, report: Report
) -> Speed:
    config = overlay.config
    rng = np.random.default_rng(m)
    activations = rng.integers(-128, 128, (m, DEPTH), dtype=np.int8)
    weights = overlay.load_weights(rng.integers(-128, 128, (DEPTH, COLUMNS), dtype=np.int8))
    what = f"measuring {config.name}, {m} rows"
    before, start = transport.cycles, time.perf_counter()
    elapsed, runs, busy_cycles, beats = 0.0, 0, 0, 0
    while elapsed < seconds:
        overlay.gemm(activations, weights)
        record = overlay.completions[-1]
        runs += 1
        busy_cycles += record.cycles
        beats += record.beats_read
        elapsed = time.perf_counter() - start
        report(what, min(round(elapsed * 1000), round(seconds * 1000)), round(seconds * 1000))
    overlay.free(weights)
    macs = runs * m * DEPTH * COLUMNS
    return Speed(
        config=config.name,
        rows=config.rows,
        cols=config.cols,
        m=m,
        k=DEPTH,
        n=COLUMNS,
        cycles=transport.cycles - before,
        seconds=elapsed,
        macs=macs,
        array=macs / (busy_cycles * config.macs_per_cycle),
        bus=beats / busy_cycles,
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench sim``."""
    parser.add_argument(
        "--config",
        action="append",
        choices=sorted(CONFIGS),
        help="configuration to measure; may be given several times (default: tiny and sim)",
    )
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="how long to measure each (default: 2)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return the exit status."""
    if not arguments.seconds > 0:
        raise UsageError(f"--seconds must be above 0, not {arguments.seconds!r}")
    speeds: list[Speed] = []
    with output.progress() as report:
        for name in arguments.config or USUAL_CONFIGS:
            speeds += measure(CONFIGS[name], seconds=arguments.seconds, report=report)
    if arguments.json:
        output.print_json([_record(speed) for speed in speeds])
    else:
        output.print_table([_row(speed) for speed in speeds])
    return 0


def _record(speed: Speed) -> dict[str, object]:
    return {
        **asdict(speed),
        "cycles_per_second": speed.cycles_per_second,
        "macs_per_second": speed.macs_per_second,
    }


def _row(speed: Speed) -> dict[str, object]:
    return {
        "config": speed.config,
        "array": f"{speed.rows} x {speed.cols}",
        "GEMM m x k x n": f"{speed.m} x {speed.k} x {speed.n}",
        "M cycles/s": round(speed.cycles_per_second / 1e6, 2),
        "M MAC/s": round(speed.macs_per_second / 1e6, 1),
        "array busy": f"{speed.array:.1%}",
        "bus busy": f"{speed.bus:.1%}",
    }


if __name__ == "__main__":
    sys.exit(run_command("python -m ciuic_sim.speed", sys.modules[__name__], sys.argv[1:]))
