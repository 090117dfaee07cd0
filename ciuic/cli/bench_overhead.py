"""What the runtime itself costs a task: empty tasks on a graph, through all of its layers.

Each task adds two earlier results, as far as shapes, memory, queue, records and cost model are
concerned; its kernel does nothing. Microseconds are from the first submission to the completion of
the last task, over their number; on a machine that is busy with other things, compare with those
of the process's own time on the processors. Exit status 1 if the former is beyond the bound.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, Kernel, Kind, Roofline
from ciuic.quantize_int4 import Quantized
from ciuic.runtime import Runtime

from . import output

EXAMPLES = """
ciuic bench overhead                    microseconds a task, beside the bound
ciuic bench overhead --tasks 1000000    longer
ciuic bench overhead --json             for programs
"""

TASKS = 100_000
BOUND, GOAL = 50.0, 20.0  # microseconds a task
BEHIND = 16  # a task reads the result before it and the one this many before
STEP = 1000  # tasks between two reports


@dataclass(frozen=True)
class Result:
    """What ``--json`` prints."""

    tasks: int
    microseconds_per_task: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic bench overhead``."""
    parser.add_argument(
        "--tasks", type=int, default=TASKS, metavar="N", help="tasks to run (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; return 1 if the bound is missed."""
    from ciuic.errors import UsageError

    if arguments.tasks < 1:
        raise UsageError(f"--tasks must be at least 1, not {arguments.tasks}")
    start = time.process_time()
    with output.progress() as report:
        result = measure(arguments.tasks, report)
    processor = 1e6 * (time.process_time() - start) / arguments.tasks
    if arguments.json:
        output.print_json(result)
    else:
        row = {"us/task": result.microseconds_per_task, "at most": BOUND, "goal": GOAL}
        output.print_table([{"tasks": result.tasks, **row, "processor us/task": processor}])
    return 0 if result.microseconds_per_task <= BOUND else 1


def measure(tasks: int, report: output.Report) -> Result:
    """Run a graph of empty tasks and return what each took."""
    runtime = Runtime()
    with EmptyDevice() as device:
        first = runtime.place(np.zeros((4, 64), np.float32), device)
        recent = deque([first] * BEHIND, BEHIND)
        runtime.synchronize()
        start = time.perf_counter()
        for done in range(1, tasks + 1):
            recent.append(runtime.run("add", (recent[-1], recent[0]), device=device))
            if done % STEP == 0:
                report("tasks", done, tasks)
        runtime.synchronize()
        seconds = time.perf_counter() - start
        report("tasks", tasks, tasks)
        assert device.statistics.tasks == tasks
    return Result(tasks, 1e6 * seconds / tasks)


class EmptyDevice(Device):
    """A device whose kernels do nothing, so that what remains is the runtime's own work."""

    kind: Kind = "CPU"
    name = "empty"
    emulated = True
    roofline = Roofline(1e12, 1e12, 1e12, 1e-6)

    def __init__(self) -> None:
        super().__init__("empty", 1 << 30)

    def _load_kernels(self) -> dict[str, Kernel]:
        return {"add": _nothing}

    def _put(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return value

    def _put_weight(self, weight: Quantized) -> Quantized:
        return weight

    def _get(self, array: DeviceArray) -> npt.NDArray[Any]:
        return np.zeros(array.shape, array.dtype)

    def _zeros(
        self, _inputs: Sequence[DeviceArray], _output: DeviceArray, _attributes: dict[str, Any]
    ) -> None:
        """There is nothing to write."""

    def _drop(self, data: Any) -> None:
        """There is nothing to release."""

    def _finish(self) -> None:
        """Kernels have finished when they return."""

    def _close(self) -> None:
        """There is nothing to release."""


def _nothing(
    _inputs: Sequence[DeviceArray], _output: DeviceArray, _attributes: dict[str, Any]
) -> None:
    """Do nothing."""
