"""A device's memory: waited for, watched, and given back when a task fails."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from ciuic.errors import DeviceError, OutOfMemory

from ..standin import StandIn

COUNT = 100
NBYTES = 4 * COUNT
ARRAY = np.ones(COUNT, np.float32)


@pytest.fixture
def device() -> Iterator[StandIn]:
    with StandIn(capacity=4 * NBYTES, seconds=0.005, broken=["silu_mul"]) as device:
        yield device


def test_a_queue_longer_than_the_memory_is_waited_for(device: StandIn) -> None:
    x = one = device.upload(ARRAY)
    for _ in range(20):  # each needs one array beside x and one; nobody waits in between
        x = device.submit("add", [x, one]).output
    assert x.numpy().tolist() == [21] * COUNT
    del x
    device.synchronize()
    assert device.used_bytes == NBYTES


def test_what_is_really_in_use_is_not_waited_for(device: StandIn) -> None:
    held = [device.upload(ARRAY) for _ in range(4)]
    with pytest.raises(OutOfMemory, match=r"^standin: 400 bytes wanted, 0 of 1,600 bytes "):
        device.submit("add", held[:2])
    del held[2:]
    assert device.submit("add", held).wait().numpy().tolist() == [2] * COUNT


def test_failed_tasks_keep_no_memory(device: StandIn) -> None:
    x = device.upload(ARRAY)
    event = device.submit("silu_mul", [x, x])
    with pytest.raises(DeviceError, match=r"^silu_mul is broken$"):
        event.wait()
    assert device.used_bytes == NBYTES
    with pytest.raises(DeviceError, match=r"^silu_mul is broken$"):
        device.submit("add", [event.output, x]).wait()
    assert device.used_bytes == NBYTES


def test_peak_is_the_most_in_use_at_one_time(device: StandIn) -> None:
    first, second = device.upload(ARRAY), device.upload(ARRAY)
    device.submit("add", [first, second]).wait()
    del second
    device.synchronize()
    third = device.upload(ARRAY)
    assert device.used_bytes == 2 * NBYTES
    assert device.peak_bytes == 3 * NBYTES
    device.reset_peak()
    assert device.peak_bytes == first.nbytes + third.nbytes
