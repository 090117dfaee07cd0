"""Models on devices that hold a part of their weights, against what computing and moving allow.

A device gets room for a share of what its weights take, for everything that it must hold; the plan
pins what fits and streams the rest, and tokens are written. The bound of a token is the larger of
two times of the same run: the least that it takes when all weights are resident, and what its
streamed bytes take alone: on a paced device over its paced link, on the CPU from disk, read one
after another. Efficiency is the bound over the median time; at least 0.9 is wanted, else the exit
status is 1.

"paced": an emulated board with a paced link, which both sleep for as long as they would work. An
emulation that cannot keep up with its board is late, which is told.

"disk": the CPU, with the weights of a model in a file. It stands beside an "mmap loop": the same
model, kernels and file, mapped and left to the operating system. An order that goes round in a
circle leaves nothing of a larger file in a cache that evicts the least recently used; so the file
is forgotten between two tokens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ciuic.errors import UsageError

from . import output

if TYPE_CHECKING:
    from ciuic.devices import Device
    from ciuic.models.model import Model
    from ciuic.models.plan_report import DeviceResidency

BOARD = "fpga:emulated?config=tiny&pace=real&clock=16"
LINK = 40  # MB/s; the larger share of a token is then its computation or its transfers, by the cap
CAPS = (25, 50, 75)
WANTED = 0.9
LATE = 0.05  # of the time; from then on it is told
PROMPT = (1, 2, 3, 4)
MODEL = "smollm2-135m-instruct"

EXAMPLES = f"""
ciuic fetch && ciuic bench offload
ciuic bench offload --json
ciuic bench offload deepseek-tiny --device "{BOARD}" --link 10
ciuic bench offload --only disk --disk-mb 2000 --caps 25 50
"""


@dataclass(frozen=True)
class Row:
    """What ``--json`` prints of one case; ``cap`` is of the bytes of the weights."""

    what: str
    cap: float
    seconds_per_token: float
    bound_seconds: float
    efficiency: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench offload``."""
    parser.add_argument("model", nargs="?", default=MODEL, help="of the paced cases (%(default)s)")
    parser.add_argument("--device", default=BOARD, metavar="URI", help="(%(default)s)")
    parser.add_argument(
        "--link", type=int, default=LINK, metavar="MB/S", help="of its link (%(default)s)"
    )
    parser.add_argument(
        "--caps",
        type=int,
        nargs="+",
        default=list(CAPS),
        metavar="PERCENT",
        help="of the weights (%(default)s)",
    )
    parser.add_argument(
        "--tokens", type=int, default=2, metavar="N", help="tokens a round (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="medians of this many (%(default)s)"
    )
    parser.add_argument(
        "--disk-mb", type=int, default=800, metavar="MB", help="of the model on disk (%(default)s)"
    )
    parser.add_argument(
        "--folder", metavar="PATH", help="where that is written (the folder for temporary files)"
    )
    parser.add_argument("--only", choices=("paced", "disk"), help="one half of the cases")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if an efficiency is below what is wanted."""
    from .offload_disk import disk_rows

    for option in ("tokens", "rounds", "disk_mb", "link"):
        if getattr(arguments, option) < 1:
            name = option.replace("_", "-")
            raise UsageError(f"--{name} must be at least 1, not {getattr(arguments, option)}")
    for cap in arguments.caps:
        if not 1 <= cap <= 99:
            raise UsageError(f"--caps must be from 1 to 99 percent, not {cap}")
    rows: list[Row] = []
    with output.progress() as report:
        if arguments.only != "disk":
            rows += _paced_rows(arguments, report)
        if arguments.only != "paced":
            rows += disk_rows(
                arguments.folder,
                nbytes=arguments.disk_mb * 1_000_000,
                caps=[cap / 100 for cap in arguments.caps],
                tokens=arguments.tokens,
                rounds=arguments.rounds,
                report=report,
            )
    if arguments.json:
        output.print_json(rows)
    else:
        output.print_table(
            [
                {
                    "what": row.what,
                    "cap": f"{row.cap:.0%}",
                    "s/token": row.seconds_per_token,
                    "bound": row.bound_seconds,
                    "efficiency": row.efficiency,
                    "at least": WANTED if row.what in ("paced", "disk") else None,
                }
                for row in rows
            ]
        )
    wanted = [row.efficiency for row in rows if row.what in ("paced", "disk")]
    return 0 if min(wanted) >= WANTED else 1


def row_of(what: str, cap: float, seconds: float, computing: float, moving: float) -> Row:
    """Return the row of a case from its time and those that bound it."""
    bound = max(computing, moving)
    return Row(what, cap, seconds, bound, bound / seconds)


def seconds_per_token(model: Model, tokens: int) -> float:
    """Return the seconds of a token after a short prompt, the first one left out."""
    cache = model.new_cache()
    model.prefill(PROMPT, cache)
    model.decode(PROMPT[0], cache)
    start = time.perf_counter()
    for _ in range(tokens):
        model.decode(PROMPT[0], cache)
    return (time.perf_counter() - start) / tokens


def residency_of(
    model: Model, device: Device, cap: int, tokens: int, *, on_disk: bool = False
) -> DeviceResidency:
    """Return what of a model's layers stays on a device that may hold ``cap`` bytes."""
    from ciuic.models.dry_run import DryRuntime
    from ciuic.models.loading import Source, model_network
    from ciuic.models.planner import Planner, PlanRequest

    count = len(model.layers)
    request = PlanRequest(
        model=model.config.name,
        place=",".join(f"{index}={device.uri}" for index in range(count)),
        context=len(PROMPT) + 1 + tokens,
        prompt_tokens=len(PROMPT),
        caps={device.uri: cap},
        on_disk=on_disk,
    )
    runtime = DryRuntime(model.runtime.manager)
    assert isinstance(model.source, Source)
    network = model_network(model.source, quantize="int8", runtime=runtime)
    for weights in (network.embedding, network.head, *(one.weights for one in network.layers)):
        weights.outline()
    plan = Planner(request, runtime, network).plan()
    if not plan.residency:
        raise UsageError("; ".join((*plan.problems, *plan.would_fit)) or "everything fits")
    (residency,) = plan.residency
    return residency


def _paced_rows(arguments: argparse.Namespace, report: output.Report) -> list[Row]:
    from ciuic.devices import DeviceManager
    from ciuic.memory.tiers import MemoryHierarchy
    from ciuic.models.loading import load_model
    from ciuic.models.resident import limit, resident
    from ciuic.runtime import Runtime

    separator = "&" if "?" in arguments.device else "?"
    uri = f"{arguments.device}{separator}link={arguments.link}"
    steps = arguments.rounds * (len(arguments.caps) + 1)
    rows: list[Row] = []
    with DeviceManager() as manager:
        runtime = Runtime(manager)
        memory = MemoryHierarchy(manager)
        with load_model(arguments.model, quantize="int8", runtime=runtime) as model:
            device = runtime.device(uri)
            model.place(dict.fromkeys(range(len(model.layers)), device))
            model.load()
            weights = device.used_bytes
            found_seconds, late = _rounds(model, device, arguments, report, 0, steps)
            computing = min(found_seconds)
            for done, cap in enumerate(arguments.caps, start=1):
                for layer in model.layers:
                    memory.evict(layer.weights, device)
                device.synchronize()
                allowed = weights * cap // 100
                found = residency_of(model, device, allowed, arguments.tokens)
                with ExitStack() as stack:
                    stack.enter_context(limit(runtime, {uri: allowed}))
                    stack.enter_context(resident(model, [found]))
                    first = arguments.rounds * done
                    found_seconds, share = _rounds(model, device, arguments, report, first, steps)
                late = max(late, share)
                seconds = statistics.median(found_seconds)
                moving = (found.streamed_bytes + found.routed_bytes) / (1e6 * arguments.link)
                rows.append(row_of("paced", cap / 100, seconds, computing, moving))
    report("paced", steps, steps)
    if late > LATE:
        print(
            f"late: the emulation could not keep up with its board in {late:.0%} of the time",
            file=sys.stderr,
        )
    return rows


def _rounds(
    model: Model,
    device: Device,
    arguments: argparse.Namespace,
    report: output.Report,
    first: int,
    steps: int,
) -> tuple[list[float], float]:
    """Return seconds per token of each round, and in which share of them the device was late."""
    found: list[float] = []
    late, start = getattr(device, "late_seconds", 0.0), time.perf_counter()
    for done in range(arguments.rounds):
        report("paced", first + done, steps)
        found.append(seconds_per_token(model, arguments.tokens))
    late = getattr(device, "late_seconds", 0.0) - late
    return found, late / (time.perf_counter() - start)
