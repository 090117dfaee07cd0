"""Slots of the overlay: weights that pass through, on a thread of their own, behind shadows."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import ciuic_host
import numpy as np
import pytest
from ciuic_host import Overlay
from ciuic_host.device import FpgaDevice
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.transport import Buffer

from ciuic.abi import COMPLETION, CONFIGS, DESCRIPTOR
from ciuic.errors import TransferError
from ciuic.memory.streaming import Streaming
from ciuic.quantize import quantize_columns
from ciuic.quantize_int4 import quantize_groups
from ciuic.reference import gemm, packed_nbytes
from ciuic.runtime import Runtime

K, N = 40, 24


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


@pytest.fixture
def overlay() -> Iterator[Overlay]:
    with ciuic_host.open("fpga:emulated?config=tiny") as opened:
        yield opened


def matrix(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    return rng.integers(-128, 128, (rows, cols), dtype=np.int8)


def test_weights_follow_one_another_in_a_slot(overlay: Overlay, rng: np.random.Generator) -> None:
    a, weights = matrix(rng, 5, K), [matrix(rng, K, N) for _ in range(3)]
    slot = overlay.open_slot(overlay.weight_bytes(K, N))
    for w in weights:
        handle = overlay.fill_slot(slot, overlay.pack(w))
        np.testing.assert_array_equal(overlay.gemm(a, handle), gemm(a, w))
        overlay.free(handle)
        with pytest.raises(TransferError, match="must be loaded"):
            overlay.gemm(a, handle)
    overlay.close_slot(slot)


def test_a_slot_is_filled_while_the_overlay_works(rng: np.random.Generator) -> None:
    a, weights = matrix(rng, 5, K), [matrix(rng, K, N) for _ in range(20)]
    with ciuic_host.open("fpga:emulated?config=tiny&pace=real&clock=1") as overlay:
        stays = overlay.load_weights(weights[0])
        slots = [overlay.open_slot(overlay.weight_bytes(K, N)) for _ in range(2)]
        ready = threading.Semaphore(0)
        handles = []

        def fill() -> None:
            for index, w in enumerate(weights[:2]):
                handles.append(overlay.fill_slot(slots[index], overlay.pack(w)))
                ready.release()

        filler = threading.Thread(target=fill)
        filler.start()
        for _ in range(10):
            np.testing.assert_array_equal(overlay.gemm(a, stays), gemm(a, weights[0]))
        for index in range(2):
            assert ready.acquire(timeout=10)
            np.testing.assert_array_equal(overlay.gemm(a, handles[index]), gemm(a, weights[index]))
        filler.join()


def test_more_than_a_slot_holds_is_refused(overlay: Overlay, rng: np.random.Generator) -> None:
    slot = overlay.open_slot(4096)
    with pytest.raises(
        TransferError, match=r"^weights must have at most the 4,096 bytes of a slot"
    ):
        overlay.fill_slot(slot, overlay.pack(matrix(rng, 80, 80)))


class Forgetful(EmulatedTransport):
    """Does not carry what it is told to flush, if it is more than rings and activations."""

    def flush(self, buffer, start=0, stop=None):  # type: ignore[no-untyped-def]
        if (stop or buffer.nbytes) - start < 2 * K * N:
            super().flush(buffer, start, stop)


def streamed(transport: EmulatedTransport, rng: np.random.Generator, *, w4: bool) -> bool:
    """Return whether streamed weights give the results of those that stay."""
    quantize = quantize_groups if w4 else quantize_columns
    k, n = 96, 64
    weights = [quantize(rng.standard_normal((k, n), np.float32)) for _ in range(5)]
    op = "linear_int4" if w4 else "linear"
    x = rng.standard_normal((2, k), np.float32)
    runtime = Runtime()
    with FpgaDevice("fpga:emulated", Overlay(transport)) as device:
        expected = [runtime.run(op, [x, weight]).numpy() for weight in weights]
        stream = Streaming(device, weights, 2)
        equal = True
        for _ in range(2):
            got = [runtime.run(op, [x, weight], device=device) for weight in weights]
            equal &= all(
                np.array_equal(one.numpy(), want) for one, want in zip(got, expected, strict=True)
            )
        stream.close()
    return equal


@pytest.mark.parametrize("w4", [False, True])
def test_streamed_weights_cross_the_caches(rng: np.random.Generator, w4: bool) -> None:
    assert streamed(EmulatedTransport("shadowed", CONFIGS["sim"], shadow=True), rng, w4=w4)


def test_a_missing_flush_of_a_slot_shows(rng: np.random.Generator) -> None:
    assert not streamed(Forgetful("forgetful", CONFIGS["sim"], shadow=True), rng, w4=False)


class Counting(EmulatedTransport):
    """Counts the bytes that change hands, by buffer."""

    def __init__(self) -> None:
        super().__init__("counting", CONFIGS["sim"])
        self.flushed: Counter[int] = Counter()
        self.invalidated: Counter[int] = Counter()

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        super().flush(buffer, start, stop)
        self.flushed[buffer.device_address] += (stop or buffer.nbytes) - start

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        super().invalidate(buffer, start, stop)
        self.invalidated[buffer.device_address] += (stop or buffer.nbytes) - start


def test_each_byte_changes_hands_once(rng: np.random.Generator) -> None:
    """Weights go to the device once a cycle and never back; activations and results once a task."""
    k, n, count = 96, 64, 5
    weights = [quantize_columns(rng.standard_normal((k, n), np.float32)) for _ in range(count)]
    x = rng.standard_normal((2, k), np.float32)
    transport, runtime = Counting(), Runtime()
    with FpgaDevice("fpga:emulated", Overlay(transport)) as device:
        transport.flushed.clear()  # the ring of records was handed over when the device was opened
        stream = Streaming(device, weights, 2)
        slots = {slot.device_address for slot in device.overlay._slots}
        for weight in weights * 2:
            runtime.run("linear", [x, weight], device=device).numpy()
        stream.close()
        packed = packed_nbytes(k, n, CONFIGS["sim"])
        in_slots = sum(transport.flushed[slot] for slot in slots)
        assert in_slots % packed == 0
        assert 2 * count <= in_slots // packed <= 2 * count + 2  # those ahead of a third cycle
        assert not slots & transport.invalidated.keys()
        others = Counter({at: n for at, n in transport.flushed.items() if at not in slots})
        tasks = 2 * count
        assert sum(others.values()) == tasks * (2 * k + DESCRIPTOR.nbytes)
        assert sum(transport.invalidated.values()) == tasks * (2 * n * 4 + COMPLETION.nbytes)
