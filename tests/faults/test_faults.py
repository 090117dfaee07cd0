"""Devices fail at random points of random runs: no hang, no leak, no wrong token.

Each run has a seed, which its failure prints. `make faults` does a thousand.
"""

from __future__ import annotations

import faulthandler
import gc
import random
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from ciuic.devices import Device, DeviceArray, DeviceManager, Kernel
from ciuic.errors import CiuicError, DeviceError, DeviceTimeout
from ciuic.models.loading import load_model
from ciuic.models.model import Layer, Model
from ciuic.runtime import Runtime

from ..ciuic.models import small_deepseek, small_dense
from ..ciuic.standin import StandIn
from .faulty import Fault, FaultyTransport, Schedule, open_faulty

HANG_SECONDS = 60.0
TOKENS = 5
RUNS, IN_A_TEST = 1000, 10
FEW = range(6)  # tests of `IN_A_TEST` runs each
Formats = frozenset[tuple[int, str]]
PROMPTS = ([7, 30, 12, 99, 41], [5, 6], [200, 19, 3])


class FaultyGpu(StandIn):
    """A GPU in name whose n-th task fails."""

    def __init__(self, uri: str, schedule: Schedule) -> None:
        self._schedule = schedule
        super().__init__(uri)

    def _kernel(self, op: str) -> Kernel:
        good = super()._kernel(op)

        def kernel(
            inputs: Sequence[DeviceArray], output: DeviceArray, attributes: dict[str, Any]
        ) -> Any:
            if self._schedule.due():
                if self._schedule.fault is Fault.REMOVED:
                    raise OSError(19, "No such device")
                if self._schedule.fault is Fault.TIMEOUT:
                    raise DeviceTimeout("end of a kernel", seconds=1.0, status={})
                if self._schedule.fault is Fault.OUT_OF_MEMORY:
                    self.capacity_bytes = 0
                else:
                    raise DeviceError(f"{self.uri}: bus error")
            return good(inputs, output, attributes)

        return kernel


@dataclass
class Wreck:
    """A run's devices and what became of it."""

    schedules: dict[str, Schedule] = field(default_factory=dict)
    devices: list[Device] = field(default_factory=list)
    transports: list[FaultyTransport] = field(default_factory=list)
    ids: list[list[int]] = field(default_factory=list)
    error: CiuicError | None = None
    recovered: int = 0
    unexpected: BaseException | None = None


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a dense model and one with experts."""
    root = tmp_path_factory.mktemp("faults")
    return [
        small_dense.write_folder(root / "dense"),
        small_deepseek.write_folder(root / "deepseek"),
    ]


@pytest.fixture(scope="module")
def expected() -> Callable[[Path, list[list[int]], Formats], list[list[int]]]:
    """Return a function that tells what the CPU alone writes, some layers in FPGA's formats."""
    known: dict[tuple[Path, str, Formats], list[list[int]]] = {}

    def tokens(path: Path, prompts: list[list[int]], fpga: Formats) -> list[list[int]]:
        key = (path, repr(prompts), fpga)
        if key not in known:
            with DeviceManager() as manager:
                with load_model(path, quantize="int8", runtime=Runtime(manager)) as model:
                    for index, attention in fpga:
                        model.layers[index].as_fpga = True
                        model.layers[index].attention = attention
                    known[key] = write(model, prompts)
        return known[key]

    return tokens


def write(model: Model, prompts: list[list[int]]) -> list[list[int]]:
    """Return what a model writes after prompts, all at once if there are several."""
    if len(prompts) == 1:
        generation = model.generate(prompts[0], TOKENS)
        for _ in generation:
            pass
        return [generation.ids]
    batch = model.generate_batch(prompts, TOKENS)
    for _ in batch:
        pass
    return [text.ids for text in batch.texts]


def place(rng: random.Random, model: Model, wreck: Wreck) -> None:
    """Spread a model over the host and devices of which some will fail."""
    names = rng.sample(["fpga:a", "fpga:b", "gpu:a", "gpu:b"], rng.randint(1, 3))
    found: list[Device | str] = ["cpu"]
    for name in names:
        fault = rng.choice([*Fault, None])
        # A doorbell for each product of a layer's tokens; a GPU has more tasks.
        schedule = Schedule(fault, rng.randint(1, 60 if name.startswith("fpga") else 150))
        wreck.schedules[name] = schedule
        if name.startswith("fpga"):
            device, transport = open_faulty(name, schedule)
            wreck.transports.append(transport)
            found.append(device)
        else:
            found.append(FaultyGpu(name, schedule))
    wreck.devices = [device for device in found if isinstance(device, Device)]
    for layer in model.layers:
        layer.device = rng.choice(found)
    model.head_device = rng.choice(found)
    for layer in rng.sample(model.layers, rng.randint(0, len(model.layers))):
        divide(rng, model, layer, found)


def divide(rng: random.Random, model: Model, layer: Layer, found: list[Device | str]) -> None:
    """Divide a matrix of a layer over some of the devices, or put it on one."""
    shapes = {role: stored.shape for role, stored in layer.weights.stored.items()}
    exact = ("router", "up_keys", "up_values")
    role = rng.choice([one for one in shapes if len(shapes[one]) == 2 and one not in exact])
    weight = layer.weights[role]
    devices = [model.runtime.device(one) for one in rng.sample(found, rng.randint(1, len(found)))]
    cuts = sorted(rng.sample(range(1, weight.shape[1]), len(devices) - 1))
    counts = [stop - start for start, stop in pairwise([0, *cuts, weight.shape[1]])]
    model.runtime.divide(weight, list(zip(devices, counts, strict=True)))


def fpga_layers(model: Model) -> Formats:
    """Return the layers that compute in an FPGA's formats, and their forms of attention."""
    return frozenset(
        (index, layer.device.attention)
        for index, layer in enumerate(model.layers)
        if isinstance(layer.device, Device) and layer.device.kind == "FPGA"
    )


def run(seed: int, folders: list[Path], expected: Callable[..., list[list[int]]]) -> Wreck:
    """Do one run, and check all that must hold whatever failed."""
    rng = random.Random(seed)
    path = rng.choice(folders)
    prompts = [list(one) for one in rng.sample(PROMPTS, rng.choice([1, 1, 2]))]
    wreck = Wreck()
    threads = set(threading.enumerate())
    want: list[list[int]] = []

    def work() -> None:
        try:
            with DeviceManager() as manager:
                with load_model(path, quantize="int8", runtime=Runtime(manager)) as model:
                    place(rng, model, wreck)
                    want.extend(expected(path, prompts, fpga_layers(model)))
                    try:
                        wreck.ids = write(model, prompts)
                    except CiuicError as error:
                        wreck.error = error.with_traceback(None)
                    wreck.recovered = len(model.recovered)
                del model  # with the weights that it holds on devices
                for device in wreck.devices:
                    device.close()
        except BaseException as error:
            wreck.unexpected = error

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(HANG_SECONDS)
    told = f"seed {seed}: {wreck.schedules}"
    if worker.is_alive():
        faulthandler.dump_traceback(sys.stderr)
        pytest.fail(f"{told}: the run hangs")
    if wreck.unexpected is not None:
        raise AssertionError(told) from wreck.unexpected
    if wreck.error is None:
        assert wreck.ids == want, told
    else:
        assert wreck.error.story is not None, told
    gc.collect()
    assert [one.buffers for one in wreck.transports] == [0] * len(wreck.transports), told
    assert all(one.closed for one in wreck.transports), told
    assert [one.used_bytes for one in wreck.devices] == [0] * len(wreck.devices), told
    assert set(threading.enumerate()) - {worker} <= threads, told
    return wreck


@pytest.mark.parametrize("part", FEW)
def test_random_faults_leave_no_wrong_token_and_nothing_behind(
    part: int, folders: list[Path], expected: Callable[..., list[list[int]]]
) -> None:
    for seed in range(part * IN_A_TEST, (part + 1) * IN_A_TEST):
        run(seed, folders, expected)


@pytest.mark.slow
def test_a_thousand_runs(folders: list[Path], expected: Callable[..., list[list[int]]]) -> None:
    faults: dict[Fault, int] = dict.fromkeys(Fault, 0)
    stopped = went_on = 0
    for seed in range(RUNS):
        wreck = run(seed, folders, expected)
        for schedule in wreck.schedules.values():
            if schedule.happened and schedule.fault is not None:
                faults[schedule.fault] += 1
        went_on += wreck.recovered > 0
        stopped += wreck.error is not None
    print(f"{RUNS} runs: {went_on} went on after a failure, {stopped} stopped; {faults}")
    assert went_on + stopped > RUNS // 4
    assert all(count > RUNS // 50 for count in faults.values())
