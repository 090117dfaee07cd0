"""The arena of a device: results are never overwritten while anybody needs them."""

from __future__ import annotations

import math
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.devices import Device, DeviceArray
from ciuic.devices.arena import ArenaDevice, HeldResult, Place
from ciuic.devices.array import Storage
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.opencl import OpenclDevice
from ciuic.devices.opencl_runtime import working_devices
from ciuic.errors import OutOfMemory, ShapeError, TransferError
from ciuic.quantize import quantize_columns
from ciuic.tensor import CiuicTensor

from .conftest import require_opencl

WIDTH = 48


def opened(kind: str) -> ArenaDevice:
    """Return a device whose arena is empty."""
    if kind == "cpu":
        return CpuDevice()
    require_opencl()
    return OpenclDevice("opencl:0", working_devices()[0])


@pytest.fixture(params=["cpu", pytest.param("opencl", marks=pytest.mark.opencl)])
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of device that has an arena."""
    return str(request.param)


@pytest.fixture
def device(kind: str) -> Iterator[ArenaDevice]:
    """One such device."""
    with opened(kind) as device:
        assert isinstance(device, ArenaDevice)
        yield device


@pytest.fixture
def other(kind: str) -> Iterator[Device]:
    """Another of the kind, for what `device` must have computed."""
    with opened(kind) as device:
        yield device


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def storage_of(array: DeviceArray) -> HeldResult:
    assert isinstance(array.storage, HeldResult)
    return array.storage


def range_of(place: Place) -> tuple[int, int]:
    """Return where the bytes of an array begin and end."""
    offset, shape, dtype = place
    return offset, offset + math.prod(shape) * dtype.itemsize


def taken(device: ArenaDevice) -> int:
    """Return how many places are taken."""
    return len(device._places) - len(device.given)


@contextmanager
def held_up(device: Device) -> Iterator[None]:
    """Let tasks pile up in the queue meanwhile."""
    gate = threading.Event()
    nothing = DeviceArray(Storage(device, 0), (), np.dtype(np.float32))
    device._enqueue("synchronize", lambda *_: gate.wait(60), (), nothing, {})
    try:
        yield
    finally:
        gate.set()


class Walk:
    """Random tasks on a device, results being let go of, and on another where all are kept."""

    def __init__(self, seed: int, *devices: Device) -> None:
        self.rng = np.random.default_rng(seed)
        self.devices = devices
        self.weight = quantize_columns(normal(1, WIDTH, WIDTH))
        self.gain = CiuicTensor.from_numpy(1 + 0.1 * normal(2, WIDTH))
        self.results: list[tuple[DeviceArray, ...]] = []
        self.kept: list[DeviceArray] = []

    def step(self) -> None:
        """Submit one task everywhere; then perhaps forget some results."""
        rng = self.rng
        if len(self.results) < 2 or rng.random() < 0.1:
            fresh = normal(int(rng.integers(1 << 30)), int(rng.integers(1, 7)), WIDTH)
            self.results.append(tuple(one.adopt(fresh) for one in self.devices))
        elif rng.random() < 0.4:
            # Between them are the integers of rows, and their scales.
            self._submit("linear", self._some(), self.weight)
        elif rng.random() < 0.5:
            self._submit("rms_norm", self._some(), self.gain, eps=1e-5)
        else:
            one = self._some()
            alike = [r for r in self.results if r[0].shape == one[0].shape]
            self._submit("add", one, alike[int(rng.integers(len(alike)))])
        while len(self.results) > 8 or (len(self.results) > 3 and rng.random() < 0.4):
            self.results.pop(int(rng.integers(len(self.results))))

    def _some(self) -> tuple[DeviceArray, ...]:
        return self.results[int(self.rng.integers(len(self.results)))]

    def _submit(self, op: str, *inputs: Any, **attributes: Any) -> None:
        made = []
        for at, one in enumerate(self.devices):
            arrays = [x[at] if isinstance(x, tuple) else one.hold(x) for x in inputs]
            made.append(one.submit(op, arrays, **attributes).output)
        self.results.append(tuple(made))
        self.kept += made[1:]

    def check(self) -> None:
        """Compare all results that are left."""
        for got, want in self.results:
            np.testing.assert_array_equal(got.numpy(), want.numpy())
            assert np.isfinite(want.numpy()).all()


@pytest.mark.parametrize("seed", range(6))
def test_results_are_right_whatever_is_let_go_of(
    device: ArenaDevice, other: Device, seed: int
) -> None:
    walk = Walk(seed, device, other)
    for _ in range(4):
        with held_up(device):  # places are found long before what was in them has been read
            for _ in range(60):
                walk.step()
        for _ in range(30):
            walk.step()
        walk.check()


def test_a_lifetime_that_is_too_short_is_noticed(
    device: ArenaDevice, other: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_result = device._new_result
    arrays: list[DeviceArray] = []

    def short(*arguments: Any) -> DeviceArray:
        arrays.append(new_result(*arguments))
        if len(arrays) % 5 == 0:
            arrays[-2].storage.free()  # while it is held, for the next task perhaps
        return arrays[-1]

    monkeypatch.setattr(device, "_new_result", short)

    def walk_far() -> None:
        for seed in range(6):
            walk = Walk(seed, device, other)
            for _ in range(100):
                walk.step()
            walk.check()

    with pytest.raises(AssertionError, match="Arrays are not equal"):
        walk_far()


@pytest.mark.parametrize("seed", range(3))
def test_no_two_results_that_are_held_share_bytes(
    device: ArenaDevice, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    new_result = device._new_result
    held: list[weakref.ref[HeldResult]] = []

    def watched(*arguments: Any) -> DeviceArray:
        array = new_result(*arguments)
        storages = [one for ref in held if (one := ref()) is not None] + [storage_of(array)]
        held[:] = map(weakref.ref, storages)
        live = [storage.result.place for storage in storages]
        ranges = sorted(map(range_of, [*live, *storages[-1].result.between]))
        assert all(end <= after for (_, end), (after, _) in pairwise(ranges))
        assert ranges[-1][1] <= device._arena_bytes
        return array

    monkeypatch.setattr(device, "_new_result", watched)
    walk = Walk(seed, device)
    with held_up(device):
        for _ in range(150):
            walk.step()


def test_threads_share_the_arena(device: ArenaDevice, other: Device) -> None:
    def work(seed: int) -> None:
        walk = Walk(seed, device, other)
        for _ in range(3):
            for _ in range(40):
                walk.step()
            walk.check()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, seed) for seed in range(8)]:
            done.result(60)
    device.synchronize()
    assert taken(device) == 0


def test_memory_does_not_follow_the_queue(device: ArenaDevice) -> None:
    """A chain takes two places, however many of its tasks wait."""
    x = device.adopt(normal(1, 1, WIDTH))
    with held_up(device):
        for _ in range(200):
            x = device.submit("add", [x, x]).output
    place = device._places.size(x.nbytes)
    assert device.statistics.counters["arena_bytes"] == 2 * place


def test_results_survive_that_the_arena_grows(device: ArenaDevice) -> None:
    arrays = [normal(seed, 3, 4 ** (seed % 8)) for seed in range(24)]
    kept = [device.submit("add", [device.adopt(a), device.adopt(a)]).output for a in arrays]
    assert device.statistics.counters["arena_bytes"] > 1 << 18
    for array, got in zip(arrays, kept, strict=True):
        np.testing.assert_array_equal(got.numpy(), array + array)


def test_what_is_downloaded_stays(device: ArenaDevice) -> None:
    got = device.adopt(normal(1, 5, WIDTH)).numpy()
    for seed in range(2, 6):
        other = device.adopt(normal(seed, 5, WIDTH))
        device.submit("add", [other, other]).wait()
    np.testing.assert_array_equal(got, normal(1, 5, WIDTH))
    assert not got.flags.writeable


def test_the_arenas_peak_can_be_watched_anew(device: ArenaDevice) -> None:
    small, large = (device.adopt(normal(1, rows, WIDTH)) for rows in (1, 100))
    small.numpy(), large.numpy()
    used = device.statistics.counters["arena_bytes"]
    del large
    device.reset_peak()
    device.submit("add", [small, small]).wait()
    assert 0 < device.statistics.counters["arena_bytes"] < used
    assert device.kept_bytes >= used


def test_handles_count_not_tasks(device: ArenaDevice) -> None:
    x = device.adopt(normal(1, 2, WIDTH))
    event = device.submit("add", [x, x])
    reshaped = event.output.reshape(1, 2 * WIDTH)
    del event
    np.testing.assert_array_equal(reshaped.numpy(), 2 * x.numpy().reshape(1, -1))
    event = device.submit("add", [x, x])
    assert event.wait() is event.output
    assert event.done
    del x, reshaped, event
    assert taken(device) == 0


def test_a_result_in_place_is_the_same_handle(device: ArenaDevice) -> None:
    cache = device.adopt(normal(1, 4, 3))
    rows = device.adopt(normal(2, 2, 3))
    assert device.submit("kv_append", [cache, rows], offset=1).wait() is cache
    want = normal(1, 4, 3)
    want[1:3] = normal(2, 2, 3)
    np.testing.assert_array_equal(cache.numpy(), want)


def test_memory_given_back_by_hand_is_not_used_again(device: ArenaDevice) -> None:
    x = device.adopt(normal(1, 2, WIDTH))
    result = device.submit("add", [x, x]).output
    device.free(result)
    with pytest.raises(TransferError, match=r"^an array was used after its memory"):
        device.submit("add", [result, x]).wait()
    others = [device.submit("add", [x, x]).output for _ in range(3)]
    del result  # which gives nothing back twice
    more = [device.submit("silu_mul", [x, x]).output for _ in range(3)]
    for other in others:
        np.testing.assert_array_equal(other.numpy(), 2 * x.numpy())
    where = {storage_of(one).result.place[0] for one in (x, *others, *more)}
    assert len(where) == 7


def test_a_task_that_fails_gives_its_place_back(
    device: ArenaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = device.adopt(normal(1, 2, WIDTH))
    kernels = dict(device._kernels)

    def fail(*_: Any) -> None:
        raise ShapeError("as asked")

    monkeypatch.setitem(device._kernels, "add", fail)
    failed = device.submit("add", [x, x])
    after = device.submit("silu_mul", [failed.output, x])
    for event in (failed, after):
        with pytest.raises(ShapeError, match="as asked"):
            event.wait()
    monkeypatch.setattr(device, "_kernels", kernels)
    np.testing.assert_array_equal(device.submit("add", [x, x]).wait().numpy(), 2 * x.numpy())
    assert taken(device) == 1  # of x


# Caps.


def test_the_arena_counts_against_the_cap(device: ArenaDevice) -> None:
    x = device.adopt(normal(1, 64, 64))
    device.synchronize()
    device.capacity_bytes = device.used_bytes + 50_000
    kept: list[DeviceArray] = []

    def fill() -> None:
        while len(kept) < 20:
            kept.append(device.submit("add", [x, x]).output)
            assert device.used_bytes <= device.capacity_bytes

    with pytest.raises(OutOfMemory, match=rf"^{device.uri}: "):
        fill()
    assert len(kept) == (50_000 + (1 << 16)) // x.nbytes - 1
    for one in kept:
        np.testing.assert_array_equal(one.numpy(), 2 * x.numpy())
    del one, kept[-1]
    np.testing.assert_array_equal(device.submit("add", [x, x]).wait().numpy(), 2 * x.numpy())
    assert device.peak_bytes <= device.capacity_bytes


def test_an_empty_arena_makes_room_for_others(device: ArenaDevice) -> None:
    x = device.adopt(normal(1, 64, 64))
    del x
    device.synchronize()
    device.capacity_bytes = device.used_bytes + 1000
    weight = device.upload(normal(2, 100, 100))
    assert device.used_bytes == weight.nbytes
    del weight
    device.capacity_bytes = 1 << 20
    x = device.adopt(normal(1, 64, 64))
    np.testing.assert_array_equal(device.submit("add", [x, x]).wait().numpy(), 2 * x.numpy())
    device.close()
    assert device.used_bytes == 0  # though a result is held


def test_places_are_taken_in_the_order_of_the_queue(
    device: ArenaDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is between in one thread's task must not be another's result by the time it runs."""
    x, weight = normal(1, 40, WIDTH), quantize_columns(normal(2, WIDTH, WIDTH))
    array, held = device.adopt(x), device.hold(weight)
    want = device.submit("linear", [array, held]).wait().numpy()
    enqueue, begun = device._enqueue, threading.Event()

    def late(op: str, *arguments: Any) -> Any:
        if op == "linear":
            begun.set()
            time.sleep(0.3)  # between finding places and coming into the queue
        return enqueue(op, *arguments)

    monkeypatch.setattr(device, "_enqueue", late)
    with ThreadPoolExecutor(1) as pool:
        linear = pool.submit(device.submit, "linear", [array, held])
        assert begun.wait(10)
        sums = [device.submit("add", [array, array]).output for _ in range(4)]
        np.testing.assert_array_equal(linear.result(10).wait().numpy(), want)
    for one in sums:
        np.testing.assert_array_equal(one.numpy(), 2 * x)
