"""Keys and values that are no cache: packed for one task, counted as long as that takes.

Their contents in float32, which count anyway, stand for as many bytes.
"""

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


def bytes_beyond(device: FpgaDevice, op: str, rows: int) -> int:
    """Return by how much the overlay's keys and values are larger than what they are made of."""
    config = device.overlay.config
    if op == "attention":
        packed, floats = 2 * HEADS * head_nbytes(config, WIDTH, rows), 2 * HEADS * WIDTH
    else:
        packed = sum(head_nbytes(config, width, rows) for width in (RANK + ROPE, RANK))
        floats = RANK + ROPE
    return max(0, packed - 4 * floats * rows)


@pytest.mark.parametrize("rows", [3, 300])
@pytest.mark.parametrize("op", ["attention", "latent_attention"])
def test_rows_of_one_task_count_while_it_runs(op: str, rows: int) -> None:
    inputs, attributes = task_of(op, rows)
    with open_device("fpga:emulated?config=sim") as device:
        assert isinstance(device, FpgaDevice)
        attributes["softmax"] = device.attention
        arrays = [device.upload(one) for one in inputs]
        first = device.submit(op, arrays, **attributes).wait()  # staging has its size then
        want = first.numpy()
        device.synchronize()
        before, beyond = device.used_bytes, bytes_beyond(device, op, rows)
        assert (beyond > 0) == (rows == 3)
        device.reset_peak()
        again = device.submit(op, arrays, **attributes).wait()
        np.testing.assert_array_equal(again.numpy(), want)
        assert device.peak_bytes == before + again.nbytes + beyond
        assert device.used_bytes == before + again.nbytes

        if not beyond:
            return
        device.capacity_bytes = device.peak_bytes + again.nbytes - 1
        with pytest.raises(OutOfMemory, match=r"^fpga:emulated\?config=sim: [\d,]+ bytes wanted"):
            device.submit(op, arrays, **attributes).wait()
        assert device.peak_bytes <= device.capacity_bytes
        device.capacity_bytes += 1
        np.testing.assert_array_equal(device.submit(op, arrays, **attributes).wait().numpy(), want)
