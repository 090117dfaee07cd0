"""TaskScheduler: obeys, or chooses by what it measured; says what it did and why."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic import CiuicTensor, Runtime, TaskScheduler
from ciuic.devices import Device, DeviceArray, DeviceManager, Weight
from ciuic.errors import DeviceError, DeviceNotFound, PlacementError, ShapeError, UsageError
from ciuic.models.loading import load_model
from ciuic.quantize import quantize_columns

from ..faults.faulty import Fault, Schedule, open_faulty
from .models import small_dense
from .standin import FailsLater, StandIn

DIM = 32
WEIGHT_BYTES = DIM * DIM + 4 * DIM + 4 * DIM
SLOW = 0.02  # seconds of a task; on the host it takes some microseconds


class Layer:
    """Adds a linear layer of its normed input to the input."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        matrix = rng.standard_normal((DIM, DIM)).astype(np.float32) / DIM
        self.weights: dict[str, Weight] = {
            "norm": CiuicTensor.from_numpy(np.ones(DIM, np.float32)),
            "matrix": quantize_columns(matrix),
        }
        self.runs: list[str] = []

    def submit(
        self, hidden: CiuicTensor | DeviceArray, *, runtime: Runtime, device: Device | str
    ) -> DeviceArray:
        def run(op: str, *inputs: Any, **attributes: Any) -> DeviceArray:
            return runtime.run(op, inputs, device=device, **attributes)

        self.runs.append(runtime.device(device).uri)
        normed = run("rms_norm", hidden, self.weights["norm"], eps=1e-5)
        return run("add", hidden, run("linear", normed, self.weights["matrix"]))


@pytest.fixture
def layers() -> list[Layer]:
    return [Layer(seed) for seed in range(4)]


@pytest.fixture
def slow() -> Iterator[StandIn]:
    with StandIn("slow", seconds=SLOW) as device:
        yield device


@pytest.fixture
def hidden() -> CiuicTensor:
    rows = np.random.default_rng(0).standard_normal((3, DIM))
    return CiuicTensor.from_numpy(rows.astype(np.float32))


def on_host(layers: list[Layer], hidden: CiuicTensor) -> npt.NDArray[Any]:
    """Return what the chain makes of the tensor, one layer after the other on the host."""
    runtime, value = Runtime(), hidden
    for layer in layers:
        value = runtime.tensor(layer.submit(value, runtime=runtime, device="cpu"))
    for layer in layers:
        layer.runs.clear()
    return value.numpy()


def scheduler(layers: list[Layer], *devices: Device | str, **options: Any) -> TaskScheduler:
    """Return a scheduler of these layers, all without a device, or each on its own."""
    result = TaskScheduler(**options)
    for index, layer in enumerate(layers):
        result.add_task(layer, devices[index] if devices else None)
    return result


def placed(tasks: TaskScheduler) -> list[str]:
    assert tasks.plan is not None
    return [step.device for step in tasks.plan.steps]


def test_devices_asked_for_are_obeyed(
    layers: list[Layer], slow: StandIn, hidden: CiuicTensor
) -> None:
    expected = on_host(layers, hidden)
    with StandIn("other") as other:
        tasks = scheduler(layers, slow, "cpu", other, slow)
        result = tasks.run(hidden)
        assert placed(tasks) == ["slow", "cpu", "other", "slow"]
        assert [layer.runs for layer in layers] == [["slow"], ["cpu"], ["other"], ["slow"]]
        np.testing.assert_array_equal(result.numpy(), expected)
        assert str(tasks.plan).splitlines()[0] == "0 Layer: slow (as asked)"
        tasks_of = {row.device: row.tasks for row in tasks.report()}
        assert tasks_of == {"cpu": 3, "other": 3, "slow": 6}


def test_the_cheapest_is_chosen(layers: list[Layer], slow: StandIn, hidden: CiuicTensor) -> None:
    expected = on_host(layers, hidden)
    tasks = scheduler(layers, devices=["cpu", slow])
    np.testing.assert_array_equal(tasks.run(hidden).numpy(), expected)
    assert placed(tasks) == ["cpu"] * 4
    plan = tasks.plan
    assert plan is not None
    reason = r"least time of the chain: cpu \d+\.\d\d ms, slow (\d+\.\d\d) ms"
    found = re.fullmatch(reason, plan.steps[0].reason)
    assert found is not None
    assert float(found[1]) >= 1e3 * 3 * SLOW
    assert plan.seconds is not None
    assert plan.seconds < 4 * 3 * SLOW


def test_host_is_left_where_it_is_slower(layers: list[Layer], hidden: CiuicTensor) -> None:
    with StandIn("slow", seconds=SLOW) as slow, StandIn("slower", seconds=2 * SLOW) as slower:
        tasks = scheduler(layers, devices=[slower, slow])
        tasks.run(hidden)
        assert placed(tasks) == ["slow"] * 4


def test_layers_of_a_kind_are_measured_once(
    layers: list[Layer], slow: StandIn, hidden: CiuicTensor
) -> None:
    tasks = scheduler(layers, devices=["cpu", slow])
    tasks.run(hidden)
    assert [layer.runs.count("slow") for layer in layers] == [3, 0, 0, 0]
    tasks.run(hidden)
    assert [layer.runs.count("slow") for layer in layers] == [3, 0, 0, 0]
    tasks.run(CiuicTensor.from_numpy(hidden.numpy()[:1]))  # as many tokens: another shape
    assert [layer.runs.count("slow") for layer in layers] == [6, 0, 0, 0]


def test_measuring_leaves_no_weights(
    layers: list[Layer], slow: StandIn, hidden: CiuicTensor
) -> None:
    resident = layers[0].weights["norm"]
    slow.hold(resident)
    scheduler(layers, devices=["cpu", slow]).run(hidden)
    assert slow.holds(resident)
    assert not slow.holds(layers[0].weights["matrix"])


def test_nothing_is_measured_without_a_choice(layers: list[Layer], hidden: CiuicTensor) -> None:
    tasks = scheduler(layers, devices=["cpu"])
    tasks.run(hidden)
    assert [layer.runs for layer in layers] == [["cpu"]] * 4
    assert str(tasks.plan).endswith("\n3 Layer: cpu (the only device allowed)")


def test_emulated_devices_are_not_chosen_unasked(layers: list[Layer], hidden: CiuicTensor) -> None:
    with DeviceManager() as manager:
        tasks = TaskScheduler(manager)
        for layer in layers:
            tasks.add_task(layer)
        tasks.run(hidden)
        assert {manager.open(uri).emulated for uri in placed(tasks)} == {False}
        assert not any(device.emulated for device in manager.devices)


def test_emulated_device_that_is_asked_for_takes_part(
    layers: list[Layer], hidden: CiuicTensor
) -> None:
    tasks = scheduler(layers, devices=["cpu", "fpga:emulated?config=tiny"])
    tasks.run(hidden)
    assert tasks.plan is not None
    assert "fpga:emulated?config=tiny" in tasks.plan.steps[0].reason


def test_device_that_fails_is_left_out(layers: list[Layer], hidden: CiuicTensor) -> None:
    with StandIn(broken=["linear"]) as broken:
        tasks = scheduler(layers, devices=["cpu", broken])
        tasks.run(hidden)
        assert placed(tasks) == ["cpu"] * 4
        assert tasks.plan is not None
        assert tasks.plan.steps[0].reason.endswith(", standin linear is broken")


def test_device_that_fails_is_not_used_for_want_of_room(
    layers: list[Layer], hidden: CiuicTensor
) -> None:
    with StandIn("broken", broken=["linear"]) as broken, StandIn("small", 4000) as small:
        message = r"^small must hold 5,120 bytes of weights, \d,\d{3} are available$"
        with pytest.raises(PlacementError, match=message):
            scheduler(layers, devices=[broken, small]).run(hidden)


def test_layer_that_runs_nowhere_is_told(layers: list[Layer], hidden: CiuicTensor) -> None:
    with StandIn("a", broken=["linear"]) as a, StandIn("b", broken=["add"]) as b:
        message = "layer 0 runs on none of its devices: a: linear is broken; b: add is broken"
        with pytest.raises(PlacementError, match=f"^{message}$"):
            scheduler(layers, devices=[a, b]).run(hidden)


def test_layers_that_have_no_room_are_elsewhere(layers: list[Layer], hidden: CiuicTensor) -> None:
    expected = on_host(layers, hidden)
    with (
        StandIn("small", 2 * WEIGHT_BYTES + 2400, seconds=SLOW) as small,
        StandIn("large", seconds=2 * SLOW) as large,
    ):
        tasks = scheduler(layers, devices=[small, large])
        np.testing.assert_array_equal(tasks.run(hidden).numpy(), expected)
        assert placed(tasks) == ["small", "small", "large", "large"]
        assert tasks.plan is not None
        assert tasks.plan.steps[2].reason.endswith(", no room on small")


def test_layers_that_do_not_fit_where_asked_are_told_before_work(
    layers: list[Layer], hidden: CiuicTensor
) -> None:
    with StandIn(capacity=3 * WEIGHT_BYTES) as small:
        tasks = scheduler(layers, small, small, small, small)
        with pytest.raises(PlacementError, match=r"^standin must hold 5,120 bytes of weights, 3,8"):
            tasks.run(hidden)
        assert [layer.runs for layer in layers] == [[]] * 4


def test_operators_without_a_kernel_are_named(layers: list[Layer], hidden: CiuicTensor) -> None:
    expected = on_host(layers, hidden)
    with StandIn(without=["rms_norm", "add"]) as device:
        tasks = scheduler(layers, device, "cpu", device, "cpu")
        np.testing.assert_array_equal(tasks.run(hidden).numpy(), expected)
        assert tasks.plan is not None
        assert [step.on_host for step in tasks.plan.steps] == [("rms_norm", "add"), ()] * 2
        (row,) = [row for row in tasks.report() if row.device == "standin"]
        assert row.ops == {"linear": 2}
        assert row.on_host == {"rms_norm": 2, "add": 2}


def test_result_stays_on_the_last_device(layers: list[Layer], hidden: CiuicTensor) -> None:
    with StandIn() as device:
        result = scheduler(layers, "cpu", "cpu", device, device).run(hidden)
        assert isinstance(result.value.remote, DeviceArray)
        assert result.value.remote.device is device
        assert device.statistics.bytes_out == 0
        result.numpy()
        assert device.statistics.bytes_out == result.nbytes


def test_mistakes_are_told_before_work(layers: list[Layer], hidden: CiuicTensor) -> None:
    tasks = TaskScheduler()
    with pytest.raises(UsageError, match=r"^the scheduler must have a task before it runs$"):
        tasks.run(hidden)
    with pytest.raises(UsageError, match=r"^layer must be a layer of a model, not int$"):
        tasks.add_task(3)  # type: ignore[arg-type]
    with pytest.raises(DeviceNotFound, match=r"^no device 'npu': "):
        tasks.add_task(layers[0], "npu")
    with pytest.raises(UsageError, match=r"^devices must name at least one device$"):
        TaskScheduler(devices=[])
    tasks.add_task(layers[0])
    with pytest.raises(UsageError, match=r"^hidden must be a CiuicTensor, not ndarray$"):
        tasks.run(hidden.numpy())  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"^inputs of rms_norm must be "):
        tasks.run(CiuicTensor((2, DIM + 1)))


def test_device_that_becomes_slower_is_left(layers: list[Layer], hidden: CiuicTensor) -> None:
    with StandIn("a", seconds=SLOW / 2) as a, StandIn("b", seconds=2 * SLOW) as b:
        tasks = scheduler(layers[:2], devices=[a, b])
        tasks.run(hidden).numpy()
        assert placed(tasks) == ["a"] * 2
        a._seconds = 10 * SLOW
        notes = ""
        for _ in range(2):  # one to find out, one to know better
            tasks.run(hidden).numpy()
            assert tasks.plan is not None
            notes += tasks.plan.note
        assert placed(tasks) == ["b"] * 2
        assert re.search(r"placed anew: a took \d+\.\d\d times what was planned", notes)


@pytest.mark.parametrize(("drift", "anew"), [(0.19, False), (0.21, True), (-0.21, True)])
def test_more_than_a_fifth_is_a_drift(
    drift: float, anew: bool, layers: list[Layer], slow: StandIn, hidden: CiuicTensor
) -> None:
    tasks = scheduler(layers, devices=["cpu", slow])
    tasks.run(hidden)
    for layer in layers:
        layer.runs.clear()
    costs = tasks._runtime.costs
    costs.drift = {"cpu": 0.0, "slow": drift}.__getitem__  # type: ignore[method-assign]
    tasks.run(hidden)
    assert [layer.runs.count("slow") for layer in layers] == [3 if anew else 0, 0, 0, 0]
    assert tasks.plan is not None
    expected = f"placed anew: slow took {1 + drift:.2f} times what was planned"
    assert tasks.plan.note == (expected if anew else "")


def test_device_that_was_asked_for_is_kept_however_slow(
    layers: list[Layer], hidden: CiuicTensor
) -> None:
    with StandIn(seconds=SLOW / 10) as device:
        tasks = scheduler(layers, *[device] * 4)
        for seconds in (SLOW / 10, SLOW, SLOW):
            device._seconds = seconds
            tasks.run(hidden).numpy()
            assert tasks.plan is not None
            assert tasks.plan.note == ""


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_run_goes_on_without_a_device_that_fails(
    layers: list[Layer], hidden: CiuicTensor, at: int
) -> None:
    """Layers go to the like device, those whose device was not asked for where they cost least."""
    expected = on_host(layers, hidden)
    with FailsLater("one") as one, StandIn("two") as two:
        tasks = scheduler(layers, one, "cpu", one, one)
        tasks.add_task(layers[0])
        one.left = at
        expected = on_host([*layers, layers[0]], hidden)
        result = tasks.run(hidden)
        np.testing.assert_array_equal(result.numpy(), expected)
        assert tasks.plan is not None
        assert placed(tasks)[:4] == ["cpu"] * 4  # two takes no part
        assert tasks.plan.note.startswith("one failed: linear failed; ")
        assert tasks.plan.note.endswith("; goes on without it")
        del result
        gc.collect()
        one.synchronize()
        assert (one.used_bytes, two.used_bytes) == (0, 0)
        np.testing.assert_array_equal(tasks.run(hidden).numpy(), expected)
        assert tasks.plan.note == ""
    with FailsLater("one") as one, StandIn("two") as two:
        tasks = scheduler(layers, one, two, one, "cpu")
        one.left = at % 2
        np.testing.assert_array_equal(tasks.run(hidden).numpy(), on_host(layers, hidden))
        assert placed(tasks) == ["two", "two", "two", "cpu"]


def test_a_run_that_cannot_go_on_tells_the_story_and_holds_nothing(
    layers: list[Layer], hidden: CiuicTensor
) -> None:
    full = 3 * WEIGHT_BYTES
    with FailsLater("one") as one, StandIn("two", full) as two:
        host = Runtime().device("cpu")
        gc.collect()
        host.synchronize()
        capacity, host.capacity_bytes = host.capacity_bytes, host.used_bytes + 1000
        try:
            tasks = scheduler(layers, one, one, one, two)
            one.left = 2
            with pytest.raises(PlacementError, match=r"^no other device has room for ") as caught:
                tasks.run(hidden)
        finally:
            host.capacity_bytes = capacity
        assert caught.value.story is not None
        assert caught.value.story.device == "one"
        assert isinstance(caught.value.__cause__, DeviceError)
        del caught
        gc.collect()
        for device in (one, two):
            device.synchronize()
            assert device.used_bytes == 0


@pytest.mark.parametrize("fault", list(Fault))
def test_layers_of_a_model_keep_their_number_formats(tmp_path: Path, fault: Fault) -> None:
    path = small_dense.write_folder(tmp_path / "model")
    with load_model(path, quantize="int8", runtime=Runtime(DeviceManager())) as model:
        chain: Any = model.layers
        rows = np.random.default_rng(0).standard_normal((3, model.hidden_size))
        hidden = CiuicTensor.from_numpy(rows.astype(np.float32))
        device, transport = open_faulty("fpga:faulty", Schedule(fault, 5))
        with device:
            value: Any = hidden
            for layer in chain:
                layer.as_fpga, layer.attention = True, device.attention
                value = layer.submit(value, runtime=model.runtime, device="cpu")
                layer.as_fpga, layer.attention = False, None
            tasks = TaskScheduler()
            for layer in chain:
                tasks.add_task(layer, device)
            assert np.array_equal(tasks.run(hidden).numpy(), value.numpy())
            assert transport.schedule.happened
            assert all(layer.as_fpga for layer in chain)
            assert placed(tasks) == ["cpu"] * len(chain)
            gc.collect()
            assert device.used_bytes == device.kept_bytes  # kept for later tasks
        assert transport.buffers == 0
        assert transport.closed
