"""Keys and values that are no cache: packed for one task, counted as long as that takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ciuic_host.attention import head_nbytes
from ciuic_host.device import FpgaDevice, open_device

from ciuic.errors import OutOfMemory

HEADS, WIDTH, RANK, ROPE = 2, 16, 24, 8


def task_of(op: str, rows: int) -> tuple[list[np.ndarray], dict[str, Any]]:
    """Return inputs and attributes of an attention over so many rows."""
    rng = np.random.default_rng(rows)
    shapes: list[tuple[int, ...]] = [(3, HEADS, WIDTH), (rows, HEADS, WIDTH), (rows, HEADS, WIDTH)]
    if op == "latent_attention":
        shapes = [(3, HEADS, WIDTH), (3, HEADS, ROPE), (rows, RANK), (rows, ROPE)]
        shapes += [(RANK, HEADS * WIDTH)] * 2
    inputs = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    return inputs, {"offset": rows - 3, "scale": 0.25}


def packed_bytes(device: FpgaDevice, op: str, rows: int) -> int:
    """Return the bytes of the overlay's memory that keys and values take."""
    config = device.overlay.config
    if op == "attention":
        return 2 * HEADS * head_nbytes(config, WIDTH, rows)
    return sum(head_nbytes(config, width, rows) for width in (RANK + ROPE, RANK))


@pytest.mark.parametrize("op", ["attention", "latent_attention"])
def test_rows_of_one_task_count_while_it_runs(op: str) -> None:
    inputs, attributes = task_of(op, 300)
    with open_device("fpga:emulated?config=sim") as device:
        assert isinstance(device, FpgaDevice)
        attributes["softmax"] = device.attention
        arrays = [device.upload(one) for one in inputs]
        first = device.submit(op, arrays, **attributes).wait()  # staging has its size then
        want = first.numpy()
        device.synchronize()
        before, packed = device.used_bytes, packed_bytes(device, op, 300)
        device.reset_peak()
        again = device.submit(op, arrays, **attributes).wait()
        np.testing.assert_array_equal(again.numpy(), want)
        assert device.peak_bytes == before + again.nbytes + packed
        assert device.used_bytes == before + again.nbytes

        device.capacity_bytes = device.peak_bytes + again.nbytes - 1
        with pytest.raises(OutOfMemory, match=r"^fpga:emulated\?config=sim: [\d,]+ bytes wanted"):
            device.submit(op, arrays, **attributes).wait()
        assert device.peak_bytes <= device.capacity_bytes
        device.capacity_bytes += 1
        np.testing.assert_array_equal(device.submit(op, arrays, **attributes).wait().numpy(), want)
