"""What every device does the same way: order, errors, memory, weights, counts.

Seen on the CPU, and where its arena would be in the way, on a device that has none.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from ciuic.devices import Device, DeviceArray, TaskRecord
from ciuic.devices.cpu import CpuDevice
from ciuic.errors import (
    DeviceError,
    OutOfMemory,
    PlacementError,
    ShapeError,
    TransferError,
    UsageError,
)
from ciuic.quantize import quantize_columns
from ciuic.tensor import CiuicTensor

from ..standin import StandIn


@pytest.fixture
def cpu() -> Iterator[CpuDevice]:
    with CpuDevice() as device:
        yield device


@pytest.fixture
def plain() -> Iterator[Device]:
    """A device without an arena."""
    with StandIn("plain") as device:
        yield device


class Gate:
    """Holds a device's queue until it is opened."""

    def __init__(self, device: Device) -> None:
        self._open = threading.Event()
        self.entered = threading.Event()
        device._kernels["add"] = self._wait

    def _wait(self, inputs: Sequence[DeviceArray], *_: Any) -> Any:
        self.entered.set()
        assert self._open.wait(10)
        return inputs[0].data + inputs[1].data

    def open(self) -> None:
        self._open.set()


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def test_tasks_run_in_order_and_may_use_results_that_are_not_there_yet(plain: Device) -> None:
    gate = Gate(plain)
    x = plain.upload(ones(2, 3))
    first = plain.submit("add", [x, x])
    second = plain.submit("silu_mul", [first.output, first.output])
    assert not first.done
    assert not second.done
    gate.open()
    want = 2 * 2 / (1 + np.exp(-2))
    np.testing.assert_allclose(second.wait().numpy(), np.full((2, 3), want), rtol=1e-6)
    assert first.done


def test_an_upload_is_a_copy_and_a_download_read_only(cpu: CpuDevice) -> None:
    contents = ones(4)
    array = cpu.upload(contents)
    contents[:] = 7
    got = array.numpy()
    np.testing.assert_array_equal(got, ones(4))
    with pytest.raises(ValueError, match=r"read-only"):
        got[0] = 1


def test_an_error_reaches_whoever_waits_and_everything_computed_from_it(cpu: CpuDevice) -> None:
    ids, table = cpu.upload(np.array([9], np.int32)), cpu.upload(ones(5, 2))
    bad = cpu.submit("embedding", [ids, table])
    after = cpu.submit("add", [bad.output, bad.output])
    for event in (bad, after):
        with pytest.raises(ShapeError, match=r"^ids must be from 0 to 4"):
            event.wait()
    with pytest.raises(ShapeError, match=r"^ids must be from 0 to 4"):
        after.output.numpy()
    np.testing.assert_array_equal(cpu.submit("add", [table, table]).wait().numpy(), 2 * ones(5, 2))


def test_a_failing_kernel_leaves_the_device_usable(cpu: CpuDevice) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("broken on purpose")

    cpu._kernels["add"] = fail
    x = cpu.upload(ones(2))
    with pytest.raises(RuntimeError, match=r"^broken on purpose$"):
        cpu.submit("add", [x, x]).wait()
    np.testing.assert_array_equal(x.numpy(), ones(2))


def test_reshape_shares_memory(cpu: CpuDevice) -> None:
    x = cpu.upload(np.arange(6, dtype=np.float32).reshape(2, 3))
    view = x.reshape(3, 2)
    np.testing.assert_array_equal(view.numpy(), [[0, 1], [2, 3], [4, 5]])
    doubled = cpu.submit("add", [view, view]).wait()
    np.testing.assert_array_equal(doubled.numpy(), [[0, 2], [4, 6], [8, 10]])
    used = cpu.used_bytes
    del x
    gc.collect()
    assert cpu.used_bytes == used
    with pytest.raises(ShapeError, match=r"^shape must have as many elements as \(3, 2\), not"):
        view.reshape(4)


def test_memory_is_counted_and_given_back(plain: Device) -> None:
    before = plain.used_bytes
    x = plain.upload(ones(10, 10))
    y = plain.submit("add", [x, x]).wait()
    assert plain.used_bytes - before == 800
    del x
    gc.collect()
    assert plain.used_bytes - before == 400
    plain.free(y)
    plain.synchronize()
    assert plain.used_bytes == before
    with pytest.raises(TransferError, match=r"^an array was used after its memory"):
        y.numpy()
    del y
    gc.collect()
    assert plain.used_bytes == before


def test_memory_ends_with_the_figures(plain: Device) -> None:
    x = plain.upload(ones(100))
    plain.capacity_bytes = plain.used_bytes + 399
    with pytest.raises(OutOfMemory) as error:
        plain.submit("add", [x, x])
    assert str(error.value) == "plain: 400 bytes wanted, 399 of 799 bytes available"
    assert (error.value.wanted, error.value.available, error.value.capacity) == (400, 399, 799)
    plain.capacity_bytes += 1
    np.testing.assert_array_equal(plain.submit("add", [x, x]).wait().numpy(), 2 * ones(100))


def test_arrays_in_use_by_queued_tasks_outlive_their_handles(plain: Device) -> None:
    gate = Gate(plain)
    x = plain.upload(ones(3))
    event = plain.submit("add", [x, x])
    plain.free(x)
    del x
    gate.open()
    np.testing.assert_array_equal(event.wait().numpy(), 2 * ones(3))


def test_a_weight_is_brought_once_and_stays(cpu: CpuDevice) -> None:
    weight = quantize_columns(np.eye(4, dtype=np.float32))
    assert not cpu.holds(weight)
    before = cpu.used_bytes
    array = cpu.hold(weight)
    assert cpu.hold(weight) is array
    assert cpu.holds(weight)
    assert cpu.used_bytes - before == cpu.weight_bytes(weight)
    cpu.evict(weight)
    del array
    gc.collect()
    assert not cpu.holds(weight)
    cpu.synchronize()
    assert cpu.used_bytes == before


def test_a_weight_leaves_with_its_original(cpu: CpuDevice) -> None:
    before = cpu.used_bytes
    weight = CiuicTensor.from_numpy(ones(8))
    cpu.hold(weight)
    assert cpu.used_bytes - before == 32
    del weight
    gc.collect()
    cpu.synchronize()
    assert cpu.used_bytes == before


def test_new_contents_of_a_tensor_are_brought_anew(cpu: CpuDevice) -> None:
    weight = CiuicTensor.from_numpy(ones(3))
    np.testing.assert_array_equal(cpu.hold(weight).numpy(), ones(3))
    weight.copy_from(CiuicTensor.from_numpy(2 * ones(3)))
    assert not cpu.holds(weight)
    np.testing.assert_array_equal(cpu.hold(weight).numpy(), 2 * ones(3))


def test_a_tensor_that_lies_on_the_device_is_not_moved(cpu: CpuDevice) -> None:
    x = cpu.upload(ones(3))
    assert cpu.hold(CiuicTensor.from_device(x)) is x


def test_in_place_operators_return_their_first_input(cpu: CpuDevice) -> None:
    cache, rows = cpu.zeros((4, 2)), cpu.upload(ones(1, 2))
    event = cpu.submit("kv_append", [cache, rows], offset=2)
    assert event.output is cache
    np.testing.assert_array_equal(event.wait().numpy()[2], ones(2))


def test_what_cannot_be_submitted_is_refused_at_once(cpu: CpuDevice) -> None:
    x = cpu.upload(ones(2))
    with pytest.raises(PlacementError, match=r"^cpu has no kernel for 'fly'$"):
        cpu.submit("fly", [x])
    with pytest.raises(ShapeError, match=r"^inputs of add must"):
        cpu.submit("add", [x, cpu.upload(ones(3))])
    with pytest.raises(ShapeError, match=r"^dtype on a device must be float32, int32 or int8"):
        cpu.upload(np.ones(2))
    with CpuDevice() as other, pytest.raises(PlacementError, match=r"must be moved to cpu$"):
        cpu.submit("add", [x, other.upload(ones(2))])


def test_tasks_and_bytes_are_counted(cpu: CpuDevice) -> None:
    records: list[TaskRecord] = []
    cpu.observers.append(records.append)
    x = cpu.upload(ones(5, 2))
    cpu.submit("add", [x, x])
    cpu.submit("slice_rows", [x], start=1, stop=3).wait().numpy()
    cpu.synchronize()
    assert [record.op for record in records] == ["upload", "add", "slice_rows", "download"]
    assert [record.nbytes for record in records] == [40, 0, 0, 16]
    assert records[1].inputs == ((5, 2), (5, 2))
    assert records[2].attributes == {"start": 1, "stop": 3}
    assert all(record.seconds >= 0 for record in records)
    assert [record.start for record in records] == sorted(record.start for record in records)
    statistics = cpu.statistics
    assert (statistics.tasks, statistics.bytes_in, statistics.bytes_out) == (2, 40, 16)
    assert statistics.ops["add"].tasks == 1
    assert statistics.seconds == sum(r.seconds for r in records[1:3])


def test_close_finishes_what_is_queued() -> None:
    device = CpuDevice()
    x = device.upload(ones(2))
    events = [device.submit("add", [x, x]) for _ in range(20)]
    device.close()
    device.close()
    assert device.closed
    for event in events:
        event.wait()
    with pytest.raises(DeviceError, match=r"^cpu is closed$"):
        device.upload(ones(2))


def test_close_can_give_up_what_is_queued() -> None:
    device = CpuDevice()
    gate = Gate(device)
    x = device.upload(ones(2))
    running = device.submit("add", [x, x])
    waiting = device.submit("silu_mul", [x, x])
    assert gate.entered.wait(10)
    closer = threading.Thread(target=device.close, kwargs={"cancel": True})
    closer.start()
    while not device._cancelled:
        time.sleep(0.001)
    gate.open()
    closer.join(10)
    running.wait()
    with pytest.raises(DeviceError, match=r"^cpu was closed before silu_mul ran$"):
        waiting.wait()


def test_threads_may_share_a_device(plain: Device) -> None:
    def work(number: int) -> None:
        x = plain.upload(np.full(50, number, np.float32))
        for _ in range(50):
            x = plain.submit("add", [x, plain.upload(ones(50))]).output
        results[number] = x.numpy()

    results: dict[int, np.ndarray] = {}
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        np.testing.assert_array_equal(results[number], np.full(50, number + 50))
    results.clear()
    gc.collect()
    plain.synchronize()
    assert plain.used_bytes == 0


def test_threads_of_the_cpu_are_one_unless_set() -> None:
    with CpuDevice() as device:
        if device.threads is None:
            pytest.skip("needs a numpy with OpenBLAS, as PyPI has: python -m pip install numpy")
        assert device.threads == 1
        device.threads = 2
        assert device.threads == 2
        with pytest.raises(UsageError, match=r"^threads must be at least 1, not 0$"):
            device.threads = 0
