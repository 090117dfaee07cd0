"""Streaming: more weights than a device holds, each read once a cycle while the last is used."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ciuic.devices import Device, DeviceManager, Kernel, slots
from ciuic.errors import DeviceError, OutOfMemory
from ciuic.memory.streaming import Streaming
from ciuic.quantize import QuantizedMatrix, quantize_columns
from ciuic.quantize_int4 import quantize_groups
from ciuic.runtime import Runtime
from ciuic.tensor import CiuicTensor

from ..standin import StandIn

SIDE, COUNT = 32, 7


class SlowLink(StandIn):
    """A stand-in whose link takes its time, and which notes what lies in its slots."""

    def __init__(self, *, link_seconds: float = 0.0, seconds: float = 0.0) -> None:
        self.link_seconds = link_seconds
        self.staged: list[object] = []
        self.present = self.most = 0
        self.lock = threading.Lock()
        self._fails_at: int | None = None  # so many products from now on
        super().__init__(capacity=1 << 20, seconds=seconds)

    def _kernel(self, op: str) -> Kernel:
        kernel = super()._kernel(op)

        def failing(inputs: Any, output: Any, attributes: Any) -> Any:
            if self._fails_at is not None:
                self._fails_at -= 1
                if self._fails_at < 0:
                    raise DeviceError(f"{op} failed")
            return kernel(inputs, output, attributes)

        return failing

    def _stage(self, memory: Any, weight: Any) -> Any:
        with self.lock:
            self.present += 1
            self.most = max(self.most, self.present)
        time.sleep(self.link_seconds)
        self.staged.append(weight)
        return super()._stage(memory, weight)

    def _unstage(self, data: Any) -> None:
        with self.lock:
            self.present -= 1


@pytest.fixture
def weights() -> list[QuantizedMatrix]:
    rng = np.random.default_rng(0)
    return [quantize_columns(rng.standard_normal((SIDE, SIDE), np.float32)) for _ in range(COUNT)]


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, SIDE), np.float32)


def run(
    runtime: Runtime, device: Device, weights: list[QuantizedMatrix], x: np.ndarray
) -> np.ndarray:
    value: Any = x
    for weight in weights:
        value = runtime.run("linear", [value, weight], device=device)
    result: np.ndarray = value.numpy()
    return result


@pytest.mark.parametrize("slots", [2, 3, 4])
def test_results_are_those_of_weights_that_stay(
    weights: list[QuantizedMatrix], x: np.ndarray, slots: int
) -> None:
    runtime = Runtime()
    with StandIn("resident") as resident, SlowLink() as device:
        expected = run(runtime, resident, weights, x)
        before = device.used_bytes
        stream = Streaming(device, weights, slots)
        assert device.used_bytes - before == slots * stream.slot_bytes
        for _ in range(3):
            np.testing.assert_array_equal(run(runtime, device, weights, x), expected)
        stream.close()
        # Each once a cycle, in order, and those ahead of the next cycle.
        assert device.staged == (weights * 4)[: len(device.staged)]
        assert 3 * COUNT <= len(device.staged) <= 3 * COUNT + slots
        assert device.most <= slots
        runtime.synchronize()
        del stream
        gc.collect()
        assert device.used_bytes == before


def test_weights_arrive_while_others_are_computed_with(
    weights: list[QuantizedMatrix], x: np.ndarray
) -> None:
    both = 0.01
    runtime = Runtime()
    with SlowLink(link_seconds=both, seconds=both) as device:
        stream = Streaming(device, weights, 2)
        run(runtime, device, weights, x)
        start = time.perf_counter()
        for _ in range(3):
            run(runtime, device, weights, x)
        seconds = time.perf_counter() - start
        stream.close()
    one_after_the_other = 3 * COUNT * 2 * both
    assert seconds < 0.8 * one_after_the_other


def test_pinned_weights_are_left_alone(weights: list[QuantizedMatrix], x: np.ndarray) -> None:
    runtime = Runtime()
    with SlowLink() as device:
        for weight in weights[::2]:
            device.hold(weight)
        stream = Streaming(device, weights[1::2], 2)
        expected = run(runtime, device, weights, x)
        uploaded = device.statistics.bytes_in
        np.testing.assert_array_equal(run(runtime, device, weights, x), expected)
        stream.close()
        assert device.staged.count(weights[1]) in (2, 3)
        streamed = (device.statistics.bytes_in - uploaded - x.nbytes) / weights[0].nbytes
        assert streamed == pytest.approx(len(weights[1::2]), abs=2.1)  # 2 slots ahead or behind


def test_what_nobody_foresees_comes_when_it_is_asked_for(
    weights: list[QuantizedMatrix], x: np.ndarray
) -> None:
    runtime = Runtime()
    with SlowLink() as device:
        stream = Streaming(device, weights, 2, ahead=False)
        for order in ([3, 1], [0, 6, 5, 2], [4]):
            chosen = [weights[index] for index in order]
            with StandIn("resident") as resident:
                expected = run(runtime, resident, chosen, x)
            np.testing.assert_array_equal(run(runtime, device, chosen, x), expected)
        stream.close()
        assert device.staged == [weights[index] for index in (3, 1, 0, 6, 5, 2, 4)]


def test_a_weight_that_does_not_arrive_fails_its_task_and_no_other(
    weights: list[QuantizedMatrix], x: np.ndarray
) -> None:
    runtime = Runtime()
    with SlowLink() as device:
        stream = Streaming(device, weights, 2, ahead=False)
        device._broken = ["upload"]
        with pytest.raises(DeviceError, match=r"^upload is broken$"):
            run(runtime, device, weights[:1], x)
        device._broken = []
        for _ in range(3):
            run(runtime, device, weights, x)
        stream.close()


def test_slots_that_do_not_fit_are_refused(weights: list[QuantizedMatrix]) -> None:
    with StandIn(capacity=3 * weights[0].nbytes) as device:
        with pytest.raises(OutOfMemory, match=r"^standin: "):
            Streaming(device, weights, 4)
        assert not device.streams
        Streaming(device, weights, 3).close()


def test_closing_a_device_ends_what_streams_to_it(
    weights: list[QuantizedMatrix], x: np.ndarray
) -> None:
    runtime = Runtime()
    device = SlowLink(link_seconds=0.002)
    stream = Streaming(device, weights, 2)
    value: Any = x
    for weight in weights:
        value = runtime.run("linear", [value, weight], device=device)
    device.close()
    assert value.storage.error is None  # what was queued was finished
    assert not any("copies" in thread.name for thread in threading.enumerate())
    with pytest.raises(DeviceError, match="no more"):
        stream.use(weights[0])


def test_others_are_not_touched(weights: list[QuantizedMatrix]) -> None:
    with SlowLink() as device:
        stream = Streaming(device, weights[:3], 2)
        assert stream.use(weights[5]) is None
        tensor = CiuicTensor.from_numpy(np.zeros(4, np.float32))
        assert device.hold(tensor) is device.hold(tensor)
        stream.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    assert not any("copies" in thread.name for thread in threading.enumerate())


@pytest.mark.opencl
@pytest.mark.parametrize("w4", [False, True])
def test_weights_stream_to_opencl(x: np.ndarray, w4: bool) -> None:
    rng = np.random.default_rng(3)
    quantize = quantize_groups if w4 else quantize_columns
    weights = [quantize(rng.standard_normal((SIDE, SIDE), np.float32)) for _ in range(COUNT)]
    op = "linear_int4" if w4 else "linear"
    with DeviceManager() as manager:
        runtime = Runtime(manager)
        device = manager.open("opencl")
        expected = [runtime.run(op, [x, weight], device="cpu").numpy() for weight in weights]
        stream = Streaming(device, weights, 3)
        for _ in range(3):
            got = [runtime.run(op, [x, weight], device=device) for weight in weights]
            for one, want in zip(got, expected, strict=True):
                np.testing.assert_array_equal(one.numpy(), want)
            del got, one
        stream.close()


def test_an_error_that_somebody_keeps_keeps_no_slot(
    weights: list[QuantizedMatrix], x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "ARRIVAL_SECONDS", 5.0)
    runtime = Runtime()
    with StandIn("resident") as resident, SlowLink() as device:
        expected = run(runtime, resident, weights, x)
        stream = Streaming(device, weights, 2)
        kept = []
        for failing in (0, 3, 5):
            device._fails_at = failing
            with pytest.raises(DeviceError, match="linear failed") as error:
                run(runtime, device, weights, x)
            kept.append(error.value)
        device._fails_at = None
        for _ in range(2):
            np.testing.assert_array_equal(run(runtime, device, weights, x), expected)
        stream.close()
        assert len(kept) == 3
