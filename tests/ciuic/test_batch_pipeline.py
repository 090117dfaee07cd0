"""BatchPipeline: the results of the chain, from devices that work at the same time."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator

import numpy as np
import pytest

from ciuic import BatchPipeline, CiuicTensor
from ciuic.cli import main
from ciuic.devices.statistics import TaskRecord
from ciuic.errors import DeviceError, PlacementError, UsageError

from .standin import FailsLater, StandIn
from .test_task_scheduler import DIM, WEIGHT_BYTES, Layer, on_host

SLOW = 0.01  # seconds of a task; a layer has three


@pytest.fixture
def layers() -> list[Layer]:
    return [Layer(seed) for seed in range(4)]


@pytest.fixture
def pair() -> Iterator[tuple[StandIn, StandIn]]:
    with StandIn("one", seconds=SLOW) as one, StandIn("two", seconds=SLOW) as two:
        yield one, two


@pytest.fixture
def batches() -> list[CiuicTensor]:
    rng = np.random.default_rng(0)
    return [
        CiuicTensor.from_numpy(rng.standard_normal((3, DIM)).astype(np.float32)) for _ in range(5)
    ]


def test_results_are_those_of_the_chain_in_their_order(
    layers: list[Layer], pair: tuple[StandIn, StandIn], batches: list[CiuicTensor]
) -> None:
    expected = [on_host(layers, batch) for batch in batches]
    pipeline = BatchPipeline(layers, pair)
    for result, want in zip(pipeline.run(batches), expected, strict=True):
        np.testing.assert_array_equal(result.numpy(), want)
    assert [stage.stop - stage.start for stage in pipeline.stages] == [2, 2]


def test_devices_work_at_the_same_time(
    layers: list[Layer], pair: tuple[StandIn, StandIn], batches: list[CiuicTensor]
) -> None:
    pipeline = BatchPipeline(layers, pair)
    pipeline.plan(batches[0])
    records: list[TaskRecord] = []
    for device in pair:
        device.observers.append(records.append)
    pipeline.run(batches)
    spans = {
        uri: [(r.start, r.start + r.seconds) for r in records if r.device == uri and r.inputs]
        for uri in ("one", "two")
    }
    together = sum(
        max(0.0, min(stop, other_stop) - max(start, other_start))
        for start, stop in spans["one"]
        for other_start, other_stop in spans["two"]
    )
    assert together > 2 * SLOW  # one after the other: nothing at all


def test_a_small_device_takes_what_fits(layers: list[Layer], batches: list[CiuicTensor]) -> None:
    room = 3 * WEIGHT_BYTES  # for one layer and its activations
    with StandIn("small", room) as small, StandIn("large", seconds=SLOW) as large:
        pipeline = BatchPipeline(layers, [small, large])
        expected = on_host(layers, batches[0])
        np.testing.assert_array_equal(pipeline.run(batches)[0].numpy(), expected)
        counts = {stage.device: stage.stop - stage.start for stage in pipeline.stages}
        assert counts == {"small": 1, "large": 3}


def test_a_device_that_fails_stops_the_run_and_says_so(
    layers: list[Layer], batches: list[CiuicTensor]
) -> None:
    with StandIn("good") as good:
        pipeline = BatchPipeline(layers, [good])
        pipeline.plan(batches[0])
        good._broken = ("linear",)
        with pytest.raises(DeviceError, match="linear is broken") as caught:
            pipeline.run(batches)
        assert caught.value.story is not None
        assert (caught.value.story.device, pipeline.stages) == ("good", [])
        del caught
        gc.collect()
        good.synchronize()
        assert good.used_bytes == 0
        good._broken = ()
        pipeline.run(batches)  # it can be used again


def test_the_others_go_on_without_a_device_that_fails(
    layers: list[Layer], batches: list[CiuicTensor], caplog: pytest.LogCaptureFixture
) -> None:
    expected = [on_host(layers, batch) for batch in batches]
    for at in (1, 4, 9):  # linear layers until it fails: at once, and with batches done
        with FailsLater("one") as one, StandIn("two") as two:
            pipeline = BatchPipeline(layers, [one, two])
            pipeline.plan(batches[0])
            one.left = at
            for result, want in zip(pipeline.run(batches), expected, strict=True):
                np.testing.assert_array_equal(result.numpy(), want)
            assert [stage.device for stage in pipeline.stages] == ["two"]
            del result
            gc.collect()
            one.synchronize()
            assert one.used_bytes == 0
    assert "one failed: linear failed; " in caplog.text


def test_what_cannot_be_run_is_refused(layers: list[Layer], batches: list[CiuicTensor]) -> None:
    with pytest.raises(UsageError, match="at least one layer and one device"):
        BatchPipeline([], ["cpu"])
    with StandIn("broken", broken=("linear",)) as broken:
        pipeline = BatchPipeline(layers, [broken])
        with pytest.raises(PlacementError, match="layer 0 runs on none of the devices"):
            pipeline.run(batches)
    assert pipeline.run([]) == []


def test_the_bench_compares_both_ways(capsys: pytest.CaptureFixture[str]) -> None:
    options = "--tokens 2 --batches 2 --rounds 1 --json --devices fpga:emulated?config=sim cpu"
    assert main(["bench", "headline", "deepseek-tiny", *options.split()]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["devices"] == ["fpga:emulated?config=sim", "cpu"]
    assert not document["paced"]
    for way in ("baseline", "ciuic"):
        assert document[way]["seconds_per_batch"] > 0
        assert 0 < document[way]["cpu_utilization"] <= 1
    assert document["baseline"]["device_memory_bytes"] > 1e6
    assert [stage["stop"] for stage in document["stages"]][-1] == 6


def test_the_bench_refuses_one_device_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "headline", "deepseek-tiny", "--devices", "cpu", "cpu"]) == 2
    assert "--devices must be two, not cpu twice" in capsys.readouterr().err
