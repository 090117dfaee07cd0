"""The address space of devices that are no boards."""

from __future__ import annotations

import numpy as np
import pytest
from ciuic_host.memory import AccessError, DeviceMemory
from ciuic_host.transport import PAGE_BYTES, Buffer

from ciuic.errors import OutOfMemory, TransferError

CAPACITY = 64 * PAGE_BYTES


@pytest.fixture
def memory() -> DeviceMemory:
    return DeviceMemory("fpga:test", capacity=CAPACITY, shadow=True)


def test_random_allocations_never_overlap(memory: DeviceMemory) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    live: list[Buffer] = []
    for _ in range(500):
        if live and (rng.random() < 0.45 or memory.used > CAPACITY // 2):
            memory.free(live.pop(rng.integers(len(live))))
            continue
        buffer = memory.allocate(int(rng.integers(1, 4 * PAGE_BYTES)))
        assert buffer.device_address % PAGE_BYTES == 0
        assert not buffer.array.any()
        buffer.array[:] = 1
        for other in live:
            start, stop = other.device_address, other.device_address + other.nbytes
            # a page between them, so that a write past the end is an error
            assert (
                buffer.device_address + buffer.nbytes + PAGE_BYTES <= start
                or stop + PAGE_BYTES <= buffer.device_address
            )
        live.append(buffer)
    for buffer in live:
        memory.free(buffer)
    assert memory.used == 0


def test_each_side_sees_only_what_it_was_handed(memory: DeviceMemory) -> None:
    buffer = memory.allocate(16)
    device = memory.view(buffer.device_address, 16)
    buffer.array[:] = 7
    assert device.tolist() == [0] * 16
    memory.flush(buffer, 4, 8)
    assert device.tolist() == [0] * 4 + [7] * 4 + [0] * 8
    device[:] = 9
    assert buffer.array.tolist() == [7] * 16
    memory.invalidate(buffer, 0, 2)
    assert buffer.array.tolist() == [9, 9] + [7] * 14


def test_without_shadow_both_sides_share_the_bytes() -> None:
    memory = DeviceMemory("fpga:test", capacity=CAPACITY, shadow=False)
    buffer = memory.allocate(16)
    buffer.array[3] = 5
    assert memory.view(buffer.device_address, 16)[3] == 5


def test_pages_are_mapped_whole_and_nothing_else(memory: DeviceMemory) -> None:
    buffer = memory.allocate(10)
    base = buffer.device_address
    assert memory.view(base + 8, PAGE_BYTES - 8).size == PAGE_BYTES - 8
    for address, nbytes in ((base - 1, 1), (base, PAGE_BYTES + 1), (base + PAGE_BYTES, 1), (0, 1)):
        with pytest.raises(AccessError, match=f"^{nbytes} bytes at {address:#x} are in no buffer$"):
            memory.view(address, nbytes)


def test_running_out_of_memory_names_the_figures(memory: DeviceMemory) -> None:
    memory.allocate(CAPACITY - PAGE_BYTES)
    with pytest.raises(OutOfMemory) as caught:
        memory.allocate(PAGE_BYTES + 1)
    error = caught.value
    assert (error.wanted, error.available, error.capacity) == (PAGE_BYTES + 1, PAGE_BYTES, CAPACITY)


@pytest.mark.parametrize(("start", "stop"), [(-1, 4), (5, 4), (0, 17)])
def test_a_range_outside_of_the_buffer_is_an_error(
    memory: DeviceMemory, start: int, stop: int
) -> None:
    buffer = memory.allocate(16)
    message = rf"^fpga:test: range must lie in a buffer of 16 bytes, not be \[{start}, {stop}\)$"
    with pytest.raises(TransferError, match=message):
        memory.flush(buffer, start, stop)
    with pytest.raises(TransferError, match=message):
        memory.invalidate(buffer, start, stop)


def test_a_freed_buffer_cannot_be_used(memory: DeviceMemory) -> None:
    buffer = memory.allocate(16)
    memory.free(buffer)
    for use in (
        lambda: memory.flush(buffer, 0, None),
        lambda: memory.invalidate(buffer, 0, None),
        lambda: memory.free(buffer),
    ):
        with pytest.raises(TransferError, match=r"must not have been freed$"):
            use()


def test_an_empty_buffer_is_an_error(memory: DeviceMemory) -> None:
    with pytest.raises(TransferError, match=r"^size of a buffer must be at least 1 byte, not 0$"):
        memory.allocate(0)
