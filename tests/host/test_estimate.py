"""What is foretold of tasks is what the emulated overlay then counts and allocates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ciuic_host.device import FpgaDevice

from ciuic.devices import DeviceManager
from ciuic.quantize import quantize_columns

Arrays = list[np.ndarray[Any, np.dtype[np.float32]]]


def linear(rng: np.random.Generator) -> tuple[Arrays, dict[str, Any]]:
    m, k, n = (int(rng.integers(1, high)) for high in (80, 400, 300))
    return [rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)], {}


def softmax(rng: np.random.Generator) -> tuple[Arrays, dict[str, Any]]:
    return [rng.standard_normal(rng.integers(1, 200, 2), np.float32)], {}


def attention(rng: np.random.Generator) -> tuple[Arrays, dict[str, Any]]:
    t, offset = int(rng.choice([1, 1, 7, 40])), int(rng.integers(0, 100))
    slots = offset + t + int(rng.integers(0, 50))
    shapes = [(t, 6, 8), (slots, 2, 8), (slots, 2, 8)]
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    return arrays, {"offset": offset, "scale": 0.35}


def latent_attention(rng: np.random.Generator) -> tuple[Arrays, dict[str, Any]]:
    t, offset = int(rng.choice([1, 1, 7, 40])), int(rng.integers(0, 100))
    slots = offset + t + int(rng.integers(0, 50))
    shapes = [(t, 3, 8), (t, 3, 4), (slots, 16), (slots, 4), (16, 24), (16, 30)]
    arrays = [rng.standard_normal(shape, np.float32) for shape in shapes]
    return arrays, {"offset": offset, "scale": 0.35}


@pytest.mark.parametrize("config", ["tiny", "pynq-z2", "kv260"])
@pytest.mark.parametrize("task", [linear, softmax, attention, latent_attention])
@pytest.mark.parametrize("seed", range(3))
def test_estimates_are_what_the_overlay_counts(config: str, task: Any, seed: int) -> None:
    arrays, attributes = task(np.random.default_rng(seed))
    with DeviceManager() as manager:
        device = manager.open(f"fpga:emulated?config={config}&read_latency={20 + seed}")
        assert isinstance(device, FpgaDevice)
        placed = [device.upload(arrays[0])]
        if task is linear:
            placed.append(device.hold(quantize_columns(arrays[1])))
        else:
            placed += [device.upload(array) for array in arrays[1:]]
        device.synchronize()
        before = device.overlay.counters()["cycles"]
        device.submit(task.__name__, placed, **attributes).wait()
        cycles = device.overlay.counters()["cycles"] - before
        buffer = device.overlay._staging._buffer
        inputs = [array.shape for array in arrays]
        estimate = device.estimate(task.__name__, inputs, attributes)
        assert estimate is not None
        assert estimate.seconds * device.overlay.config.clock_hz == pytest.approx(cycles, abs=0.5)
        assert estimate.products_on_host is (task is latent_attention)
        assert buffer is not None
        assert device.staging_bytes(task.__name__, inputs) >= buffer.nbytes
        if task in (linear, softmax):
            assert device.staging_bytes(task.__name__, inputs) == buffer.nbytes


def test_nothing_is_foretold_of_what_the_host_runs() -> None:
    with DeviceManager() as manager:
        device = manager.open("fpga:emulated?config=tiny")
        assert not device.supports("rms_norm")
        assert device.estimate("rms_norm", [(1, 8), (8,)], {"eps": 1e-6}) is None
        assert device.staging_bytes("rms_norm", [(1, 8), (8,)]) == 0


def test_on_chip_memory_is_that_of_the_configuration() -> None:
    with DeviceManager() as manager:
        device = manager.open("fpga:emulated?config=tiny")
        # 4,096 words of 8 bytes; two banks of 64 rows of 8 INT32.
        assert device.on_chip_bytes == 4096 * 8 + 2 * 64 * 8 * 4
