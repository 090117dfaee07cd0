"""The memory of the CPU's arena: contents stay while it grows, or cannot."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from ciuic.devices import host_arena
from ciuic.devices.array import Shape
from ciuic.devices.cpu import CpuDevice
from ciuic.devices.host_arena import HostArena
from ciuic.errors import DeviceError

FLOAT32 = np.dtype(np.float32)


@pytest.fixture
def cpu() -> Iterator[CpuDevice]:
    """A CPU whose arena is empty."""
    with CpuDevice() as device:
        yield device


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


@pytest.mark.parametrize("seed", range(5))
def test_contents_move_with_the_memory(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_arena, "PIECE_NBYTES", 8 * mmap.PAGESIZE)
    rng = np.random.default_rng(seed)
    arena = HostArena("cpu")
    arena.fit(64)
    written: dict[tuple[int, Shape, np.dtype[Any]], np.ndarray] = {}
    for _ in range(20):
        start = arena.nbytes
        arena.fit(start + 64 * int(rng.integers(1, 5000)))
        place = (start, ((arena.nbytes - start) // 4,), FLOAT32)
        written[place] = rng.standard_normal(place[1]).astype(np.float32)
        arena.view(place)[...] = written[place]
        arena.fit(int(rng.integers(arena.nbytes)))  # it is large enough
        for where, contents in written.items():
            np.testing.assert_array_equal(arena.view(where), contents, f"seed {seed}")
            assert arena.view(where) is arena.view(where)


def test_what_was_given_back_is_not_in_memory() -> None:
    arena = HostArena("cpu")
    arena.fit(1 << 20)
    view = arena.view((0, (1 << 18,), FLOAT32))
    view[...] = 1
    arena.drop()
    assert arena.nbytes == 0
    if hasattr(mmap, "MADV_DONTNEED"):
        assert not view.any()  # other pages, though an array refers to them


def test_an_arena_that_cannot_grow_keeps_what_it_has(
    cpu: CpuDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cpu.submit("add", [cpu.adopt(ones(2, 3))] * 2)
    before.wait()

    def no_memory(*_: Any, **__: Any) -> mmap.mmap:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr(mmap, "mmap", no_memory)
        big = cpu.adopt(ones(300, 300))
        with pytest.raises(DeviceError, match=r"^cpu: the arena of .* could not grow: .*allocate"):
            big.numpy()
        np.testing.assert_array_equal(before.output.numpy(), 2 * ones(2, 3))
    np.testing.assert_array_equal(cpu.adopt(ones(300, 300)).numpy(), ones(300, 300))
    np.testing.assert_array_equal(before.output.numpy(), 2 * ones(2, 3))
