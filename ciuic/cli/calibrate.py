"""Measure what tasks and transfers take on this machine's devices, and keep it for plans.

Takes about a minute. What is found is kept in the user's cache folder, with the names of the
machine, its drivers and its overlays, and not used for others. Until then plans go by assumed
figures; while models run, what is observed corrects them. Emulated devices are measured only when
they are named: that is the time of the emulation, not that of a board.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from . import output

if TYPE_CHECKING:
    from pathlib import Path

    from ciuic.scheduler.cost import Calibration, Link

EXAMPLES = """
ciuic calibrate                               every real device of this machine
ciuic calibrate --device cpu --device opencl  those named
ciuic calibrate --json                        every figure, for programs
"""


@dataclass(frozen=True)
class Row:
    """One kind of task on one device: measured, and by the device's assumed figures."""

    device: str
    op: str
    inputs: tuple[tuple[int, ...], ...]
    seconds: float
    roofline_seconds: float


@dataclass(frozen=True)
class Result:
    """What ``--json`` prints."""

    file: Path
    machine: str
    links: dict[str, Link]
    tasks: tuple[Row, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic calibrate``."""
    parser.add_argument(
        "--device",
        action="append",
        default=[],
        metavar="URI",
        help="a device to measure; may be repeated (all real devices here)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")


def run(arguments: argparse.Namespace) -> int:
    """Measure, keep and print."""
    from ciuic.calibration import calibrate
    from ciuic.devices import DeviceManager
    from ciuic.runtime import Runtime
    from ciuic.scheduler.cost_store import CostStore, writable_store_path

    writable_store_path()  # or a minute's work would be lost
    store = CostStore.load()
    found: dict[str, Calibration] = {}
    with DeviceManager() as manager, output.progress() as report:
        runtime = Runtime(manager)
        uris = arguments.device or manager.list_uris(emulated=False)
        for device in [runtime.device(uri) for uri in dict.fromkeys(uris)]:
            found[device.uri] = calibrate(runtime, device, report)
            store.put(device, found[device.uri])
    result = _result(store.save(), store.machine, found)
    if arguments.json:
        output.print_json(result)
    else:
        _print(result)
    return 0


def _result(path: Path, machine: str, found: dict[str, Calibration]) -> Result:
    return Result(
        file=path,
        machine=machine,
        links={uri: one.link for uri, one in found.items() if one.link is not None},
        tasks=tuple(
            Row(uri, task.op, task.inputs, task.seconds, task.roofline)
            for uri, one in found.items()
            for task in one.tasks
        ),
    )


def _print(result: Result) -> None:
    output.print_table(
        [
            {
                "device": row.device,
                "operator": row.op,
                "inputs": " ".join("x".join(map(str, shape)) for shape in row.inputs),
                "us": 1e6 * row.seconds,
                "us assumed": 1e6 * row.roofline_seconds,
            }
            for row in result.tasks
        ]
    )
    for uri, link in result.links.items():
        print(
            f"link of {uri}: {1e6 * link.latency:.0f} us and "
            f"{1e-9 / link.seconds_per_byte:.1f} GB/s each way"
        )
    print(f"kept in {result.file}")
