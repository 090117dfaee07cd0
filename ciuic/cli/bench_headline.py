"""A model split by hand, one device after the other, against Ciuic's plan for the same devices.

The baseline is what the first users wrote: the first half of the layers on the first device, the
rest on the second, a batch through all layers before the next one begins, and weights that stay
where they were first needed. Ciuic measures the layers on both devices, cuts the chain where the
slower of the two stages is fastest, and lets both work at the same time. Layers, kernels, batches
and number formats (the overlay's, on all devices) are the same, and so are the results, which are
compared bit for bit.

Time is the median over rounds in which both take turns. Device memory is the most that lay on the
first device, weights and activations. CPU utilization is the share of the time in which the host
computed operators; the arithmetic of an emulated board is not counted as such. A paced board
(``pace=real``) finishes its work when the board would; "late" is how much of the time it could not.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from ciuic.errors import CiuicError, UsageError
from ciuic.tensor import CiuicTensor

from . import output

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from ciuic.devices import Device, DeviceManager
    from ciuic.devices.statistics import TaskRecord
    from ciuic.scheduler.stages import Stage

    Matrix = npt.NDArray[np.float32]

BOARD = "fpga:emulated?board=pynq-z2&pace=real"
HOST = "cpu"
MODEL = "smollm2-135m-instruct"
LESS_TIME, LESS_MEMORY = 0.304, 0.235  # of the baseline's, at least

EXAMPLES = f"""
ciuic fetch && ciuic bench headline
ciuic bench headline --json
ciuic bench headline deepseek-tiny --devices opencl cpu
ciuic bench headline --devices "{BOARD}" cpu --batches 8
"""


@dataclass(frozen=True)
class Round:
    """One way to run the batches, once."""

    seconds_per_batch: float
    device_memory_bytes: int
    cpu_utilization: float
    late_share: float  # of its seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench headline``."""
    parser.add_argument("model", nargs="?", default=MODEL, help="the model (%(default)s)")
    parser.add_argument(
        "--devices",
        nargs=2,
        default=[BOARD, HOST],
        metavar="URI",
        help=f"of the first and of the second half ({BOARD} {HOST})",
    )
    parser.add_argument(
        "--tokens", type=int, default=64, metavar="N", help="tokens a batch (%(default)s)"
    )
    parser.add_argument(
        "--batches", type=int, default=6, metavar="N", help="batches a round (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Run both ways in turns and print the figures; return the exit status."""
    import numpy as np

    from ciuic import BatchPipeline, TaskScheduler, load_model
    from ciuic.devices import DeviceManager
    from ciuic.memory.tiers import MemoryHierarchy

    for name in ("tokens", "batches", "rounds"):
        if getattr(arguments, name) < 1:
            raise UsageError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    with DeviceManager() as manager, load_model(arguments.model, quantize="int8") as model:
        first, second = (manager.open(uri) for uri in arguments.devices)
        if first is second:
            raise UsageError(f"--devices must be two, not {first.uri} twice")
        form = next((on.attention for on in (first, second) if on.kind == "FPGA"), None)
        memory = MemoryHierarchy(manager)
        rng = np.random.default_rng(0)
        batches = [
            CiuicTensor.from_numpy(rng.standard_normal(shape, np.float32))
            for shape in [(arguments.tokens, model.hidden_size)] * arguments.batches
        ]
        by_hand = TaskScheduler(manager)
        for index, layer in enumerate(model.layers):
            # So that results do not depend on the placement.
            layer.as_fpga, layer.attention = True, form
            by_hand.add_task(layer, first if index < len(model.layers) // 2 else second)
        pipeline = BatchPipeline(model.layers, [first, second], manager)

        def baseline() -> list[Matrix]:
            return [by_hand.run(batch).numpy() for batch in batches]

        def ciuic() -> list[Matrix]:
            return [result.numpy() for result in pipeline.run(batches)]

        rounds: dict[str, list[Round]] = {"baseline": [], "ciuic": []}
        expected: list[Matrix] = []
        with output.progress() as report:
            for done in range(arguments.rounds):
                report("rounds", done, arguments.rounds)
                for way in (baseline, ciuic):
                    for layer in model.layers:
                        memory.evict(layer.weights, first)
                        memory.evict(layer.weights, second)
                    if way is ciuic:
                        pipeline.plan(batches[0])
                    expected = expected or way()
                    results = way()  # brings the weights
                    if not all(map(np.array_equal, results, expected)):
                        raise CiuicError(f"{way.__name__} computed something else in this round")
                    rounds[way.__name__].append(_timed(way, first, manager, len(batches)))
            report("rounds", arguments.rounds, arguments.rounds)
        document = _document(rounds, pipeline.stages)
    document = {
        "model": model.config.name,
        "tokens": arguments.tokens,
        "devices": [first.uri, second.uri],
        "paced": any("pace=real" in uri for uri in arguments.devices),
        **document,
    }
    if arguments.json:
        output.print_json(document)
    else:
        _print(document)
    return 0


def _timed(way: Callable[[], object], first: Device, manager: DeviceManager, batches: int) -> Round:
    """Run one way once and return its figures."""
    from ciuic.devices.statistics import TRANSFERS

    records: list[TaskRecord] = []
    hosts = [device for device in manager.devices if device.kind == "CPU"]
    for device in hosts:
        device.observers.append(records.append)
    first.reset_peak()
    late = getattr(first, "late_seconds", 0.0)
    start = time.perf_counter()
    way()
    seconds = time.perf_counter() - start
    for device in hosts:
        device.synchronize()
        device.observers.remove(records.append)
    spans = sorted((r.start, r.start + r.seconds) for r in records if r.op not in TRANSFERS)
    return Round(
        seconds_per_batch=seconds / batches,
        device_memory_bytes=first.peak_bytes,
        cpu_utilization=_covered(spans) / seconds,
        late_share=(getattr(first, "late_seconds", 0.0) - late) / seconds,
    )


def _covered(spans: Sequence[tuple[float, float]]) -> float:
    """Return the length of the union of spans that are sorted by their start."""
    covered, end = 0.0, float("-inf")
    for start, stop in spans:
        covered += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return covered


def _document(rounds: Mapping[str, Sequence[Round]], stages: Sequence[Stage]) -> dict[str, Any]:
    figures = {
        name: {field: median(getattr(r, field) for r in found) for field in asdict(found[0])}
        for name, found in rounds.items()
    }
    bounds = {"seconds_per_batch": LESS_TIME, "device_memory_bytes": LESS_MEMORY}
    reduction = {
        field: {"value": 1 - figures["ciuic"][field] / figures["baseline"][field], "bound": bound}
        for field, bound in bounds.items()
    }
    return {**figures, "reduction": reduction, "stages": [asdict(stage) for stage in stages]}


def _print(document: Mapping[str, Any]) -> None:
    print(f"{document['model']}, batches of {document['tokens']} tokens")
    output.print_table(
        [
            {
                "": name,
                "ms a batch": 1e3 * document[name]["seconds_per_batch"],
                "device memory, MB": document[name]["device_memory_bytes"] / 1e6,
                "CPU busy": f"{document[name]['cpu_utilization']:.0%}",
                "late": f"{document[name]['late_share']:.0%}",
            }
            for name in ("baseline", "ciuic")
        ]
    )
    for field, one in document["reduction"].items():
        what = field.replace("_", " ")
        print(f"{what}: {one['value']:.1%} less than the baseline (at least {one['bound']:.1%})")
    for stage in document["stages"]:
        layers = f"layers {stage['start']} to {stage['stop'] - 1}"
        print(f"{layers} on {stage['device']}: {1e3 * stage['seconds']:.1f} ms a batch, measured")
