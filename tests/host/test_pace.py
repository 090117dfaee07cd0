"""Paced emulation: the same bits, at the board's time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import ciuic_host
import numpy as np
import numpy.typing as npt
import pytest
from ciuic_host import Gemm, Overlay
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.pace import Link, Pace

from ciuic.abi import CONFIGS, DESCRIPTOR, Opcode
from ciuic.errors import DescriptorError, DeviceTimeout, UsageError
from ciuic.reference import gemm

CLOCK_HZ = 1e5  # slow enough that computing a product here takes less than there
M, K, N = 16, 40, 24


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


@pytest.fixture
def paced() -> Iterator[Overlay]:
    transport = EmulatedTransport("paced", CONFIGS["tiny"], pace=Pace(CLOCK_HZ))
    with Overlay(transport) as overlay:
        yield overlay


def operands(rng: np.random.Generator) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int8]]:
    a = rng.integers(-128, 128, (M, K), dtype=np.int8)
    return a, rng.integers(-128, 128, (K, N), dtype=np.int8)


def test_a_paced_overlay_sleeps_for_the_time_of_the_board(
    paced: Overlay, rng: np.random.Generator
) -> None:
    a, w = operands(rng)
    weights = paced.load_weights(w)
    start, busy = time.monotonic(), time.thread_time()
    for _ in range(20):
        np.testing.assert_array_equal(paced.gemm(a, weights), gemm(a, w))
    board = sum(record.cycles for record in paced.completions) / CLOCK_HZ
    assert time.monotonic() - start >= board
    assert time.thread_time() - busy < 0.5 * board


def test_a_chain_ends_when_the_board_would(paced: Overlay, rng: np.random.Generator) -> None:
    a, w = operands(rng)
    calls = [Gemm(activations=a, weights=paced.load_weights(w))] * 8
    start = time.monotonic()
    results = paced.gemms(calls)
    records = list(paced.completions)
    assert time.monotonic() - start >= (records[-1].finished - records[0].started) / CLOCK_HZ
    for result in results:
        np.testing.assert_array_equal(result, gemm(a, w))


def test_nothing_is_seen_before_its_time() -> None:
    with Overlay(EmulatedTransport("slow", CONFIGS["tiny"], pace=Pace(20))) as slow:
        ticket = slow.submit([DESCRIPTOR.pack(opcode=Opcode.NOP)])  # for more than a second
        with pytest.raises(DeviceTimeout):
            slow.wait(ticket, seconds=1e-4)
        assert len(slow.wait(ticket)) == 1


def test_an_error_is_seen_and_the_next_call_works(paced: Overlay, rng: np.random.Generator) -> None:
    a, w = operands(rng)
    with pytest.raises(DescriptorError, match="BAD_SIZE"):
        paced.wait(paced.submit([DESCRIPTOR.pack(opcode=Opcode.GEMM)]))
    np.testing.assert_array_equal(paced.gemm(a, w), gemm(a, w))


def test_what_is_computed_too_late_is_counted() -> None:
    pace = Pace(1e9)
    pace.add(pace.start(), 1, completed=1, pending=0, code=None)
    time.sleep(0.01)
    assert pace.computed() >= 0.009
    assert [outcome.completed for outcome in pace.due()] == [1]


def test_bytes_take_their_time_over_a_paced_link() -> None:
    weights = np.ones((1024, 1024), np.int8)
    with ciuic_host.open("fpga:emulated?config=tiny&link=50") as overlay:
        start = time.monotonic()
        overlay.load_weights(weights)
        assert time.monotonic() - start >= weights.size / 50e6


def test_a_board_brings_its_configuration_and_memory() -> None:
    with ciuic_host.open("fpga:emulated?board=pynq-z2") as overlay:
        assert overlay.config.name == "pynq-z2"
        assert overlay.memory_bytes == 512 << 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("pace=fast", "pace must be one of"),
        ("link=-1", "link must be an integer"),
        ("board=pynq-z3", "board must be one of"),
        ("board=pynq-z2&config=tiny", "config must be 'pynq-z2'"),
    ],
)
def test_wrong_options_are_refused(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ciuic_host.open(f"fpga:emulated?{options}")


def test_a_link_is_shared_by_those_who_use_it_at_the_same_time() -> None:
    link = Link(10e6)
    ended: dict[int, float] = {}
    start = time.monotonic()

    def move(nbytes: int) -> None:
        link.move(nbytes)
        ended[nbytes] = time.monotonic() - start

    large = threading.Thread(target=move, args=(2_000_000,))
    large.start()
    time.sleep(0.02)
    move(100_000)  # at half of the rate: not behind the large one
    large.join()
    assert 0.02 + 0.019 <= ended[100_000] < 0.15
    assert ended[2_000_000] >= 0.209  # no byte crosses twice as fast


def test_a_link_moves_one_thing_after_another_at_its_rate() -> None:
    link = Link(10e6)
    start = time.monotonic()
    for _ in range(5):
        link.move(100_000)
    assert time.monotonic() - start >= 0.05


def test_the_clock_of_an_overlay_can_be_named() -> None:
    with ciuic_host.open("fpga:emulated?config=tiny&clock=25") as slow:
        assert slow.config.clock_hz == 25e6
    with ciuic_host.open("fpga:emulated?config=tiny") as usual:
        assert usual.config.clock_hz == CONFIGS["tiny"].clock_hz
