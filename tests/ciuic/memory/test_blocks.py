"""Blocks of memory: parts do not overlap, and blocks go with their last part."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from ciuic.memory import blocks
from ciuic.memory.blocks import ALIGNMENT, Blocks


@pytest.mark.parametrize("seed", range(3))
def test_parts_hold_what_is_written(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK_NBYTES", 4096)
    rng, room = np.random.default_rng(seed), Blocks()
    sizes = rng.integers(1, 3000, 60).tolist()
    parts = [room.take(size) for size in sizes]
    for value, part in enumerate(parts):
        part[:] = value
    for value, (part, size) in enumerate(zip(parts, sizes, strict=True)):
        assert part.shape == (size,)
        assert (part == value).all(), f"seed {seed}"
    in_blocks = [part for part in parts if part.base is not None]
    assert 2 < len({id(part.base) for part in in_blocks}) < len(in_blocks) < len(parts)
    assert all((part.ctypes.data - part.base.ctypes.data) % ALIGNMENT == 0 for part in in_blocks)


def test_a_block_goes_with_its_last_part() -> None:
    room = Blocks()
    first, second = room.take(100), room.take(200)
    assert first.base is second.base
    block = weakref.ref(first.base)
    del first
    gc.collect()
    assert block() is not None
    del second
    gc.collect()
    assert block() is None
    assert room.take(10).shape == (10,)
