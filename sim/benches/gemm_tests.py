"""Tests of the GEMM engine alone; they run inside the simulator, `test_gemm` starts them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from ciuic_sim.bench import parameters
from ciuic_sim.engine_bench import EngineBench

from ciuic.abi import Opcode, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE
from ciuic.reference import gemm, pack_weights

CONFIG = OverlayConfig(**parameters())
ACTIVATIONS_AT, WEIGHTS_AT, RESULTS_AT = 0x0, 0x40000, 0x80000
UNTOUCHED = 0xA5
READS = ("read", "read_weights")


@dataclass
class Case:
    """One product, its operands in memory and the results that it must leave there."""

    activations: npt.NDArray[np.int8]
    weights: npt.NDArray[np.int8]
    gap: int = 0
    fields: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (m, k), n = self.activations.shape, self.weights.shape[1]
        self.a_stride, self.o_stride = self._stride(k), self._stride(4 * n)
        self.fields = {
            "opcode": Opcode.GEMM,
            "a_addr": ACTIVATIONS_AT,
            "w_addr": WEIGHTS_AT,
            "o_addr": RESULTS_AT,
            "m": m,
            "k": k,
            "n": n,
            "a_stride": self.a_stride,
            "o_stride": self.o_stride,
            **self.fields,
        }

    def _stride(self, nbytes: int) -> int:
        bus = CONFIG.bus_bytes
        return (-(-nbytes // bus) + self.gap) * bus

    def place(self, bench: EngineBench) -> None:
        """Write the operands to the memory, random bytes around the activations."""
        m, k = self.activations.shape
        image = bench.rng.integers(0, 256, (m, self.a_stride), np.uint8)
        image[:, :k] = self.activations.view(np.uint8)
        bench.place(ACTIVATIONS_AT, image)
        bench.place(WEIGHTS_AT, pack_weights(self.weights, CONFIG))
        bench.memory[RESULTS_AT:] = UNTOUCHED

    def check(self, bench: EngineBench) -> None:
        """Compare the memory with the golden model, bytes between and behind rows included."""
        image = np.full(bench.memory.size - RESULTS_AT, UNTOUCHED, np.uint8)
        for row, raw in enumerate(gemm(self.activations, self.weights).view(np.uint8)):
            image[row * self.o_stride :][: raw.size] = raw
        np.testing.assert_array_equal(bench.memory[RESULTS_AT:], image)


def random_matrix(rng: np.random.Generator, rows: int, cols: int) -> npt.NDArray[np.int8]:
    """Return a matrix of one of two kinds: any integers, or only the ends of the range."""
    if rng.integers(2):
        return rng.integers(-128, 128, (rows, cols), np.int8)
    return rng.choice(np.array([-128, 127], np.int8), (rows, cols))


def case_of(rng: np.random.Generator, m: int, k: int, n: int, **options: Any) -> Case:
    """Return a product of random matrices of these sizes."""
    return Case(random_matrix(rng, m, k), random_matrix(rng, k, n), **options)


def random_case(rng: np.random.Generator) -> Case:
    """Return a product of random sizes, some of them around a tile's edges."""
    rows, cols = CONFIG.rows, CONFIG.cols
    m = int(rng.choice([1, 2, rng.integers(1, 20), CONFIG.accumulator_rows + 1]))
    k = int(rng.choice([1, rows - 1, rows, rows + 1, rng.integers(1, 5 * rows)]))
    n = int(rng.choice([1, cols - 1, cols, cols + 1, rng.integers(1, 4 * cols)]))
    return case_of(rng, m, k, n, gap=int(rng.integers(3)))


async def run(bench: EngineBench, case: Case) -> None:
    """Run a case; check its answer and what it leaves in memory."""
    case.place(bench)
    done = await bench.run(**case.fields)
    assert done["status"] == Status.OK, Status(done["status"])
    (m, k), n = case.activations.shape, case.weights.shape[1]
    assert done["busy"] == m * -(-k // CONFIG.rows) * -(-n // CONFIG.cols)
    case.check(bench)


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.3, 0.8], backpressure=[0, 0.3, 0.8])
async def test_random_products_equal_the_golden_model(
    dut: Any, idle: float, backpressure: float
) -> None:
    bench = EngineBench(dut, CONFIG, idle=idle, backpressure=backpressure, latency=5, reads=READS)
    await bench.reset()
    for _ in range(5):
        await run(bench, random_case(bench.rng))


@cocotb.test()
async def test_rows_longer_than_a_bank_are_taken_in_slices(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, latency=3, reads=READS)
    await bench.reset()
    bank = CONFIG.bank_words * CONFIG.rows
    sizes = [k for k in (bank - 1, bank, bank + 1, 3 * bank + 5) if k <= 4096]
    for k in sizes:
        await run(bench, case_of(bench.rng, 3, k, CONFIG.cols + 1))


@cocotb.test()
async def test_descriptors_that_follow_each_other_do_not_mix(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, latency=9, backpressure=0.2, reads=READS)
    await bench.reset()
    case = case_of(bench.rng, 5, 3 * CONFIG.rows + 1, 2 * CONFIG.cols)
    case.place(bench)
    nbytes = 5 * case.o_stride
    for index in range(3):
        bench.submit(**{**case.fields, "o_addr": RESULTS_AT + index * nbytes})
    for _ in range(3):
        assert (await bench.finish(100_000))["status"] == Status.OK
    bench.check_quiet()
    first = bench.memory[RESULTS_AT : RESULTS_AT + nbytes].copy()
    for index in (1, 2):
        start = RESULTS_AT + index * nbytes
        np.testing.assert_array_equal(bench.memory[start : start + nbytes], first)
    bench.memory[RESULTS_AT + nbytes :] = UNTOUCHED
    case.check(bench)


@cocotb.test()
async def test_bad_sizes_are_refused_before_memory_is_touched(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, reads=READS)
    await bench.reset()
    for change in (
        {"m": 0},
        {"k": 0},
        {"n": 0},
        {"m": MAX_SIZE + 1},
        {"k": GEMM_MAX_K + 1},
        {"n": MAX_SIZE + 1},
        {"k": 1 << 31},
    ):
        case = case_of(bench.rng, 2, 5, 3, fields=change)
        case.place(bench)
        done = await bench.run(**case.fields)
        assert done == {"status": Status.BAD_SIZE, "busy": 0}, change
        assert (bench.memory[RESULTS_AT:] == UNTOUCHED).all()
    assert bench.beats_read == bench.beats_written == 0
    await run(bench, case_of(bench.rng, 2, 5, 3))


@cocotb.test()
async def test_refused_reads_and_writes_are_reported_at_the_end(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, latency=7, reads=READS)
    await bench.reset()
    case = case_of(bench.rng, 4, 2 * CONFIG.rows, 2 * CONFIG.cols)
    for start, status in (
        (ACTIVATIONS_AT + case.a_stride, Status.READ_ERROR),
        (WEIGHTS_AT + CONFIG.tile_bytes, Status.READ_ERROR),
        (RESULTS_AT + 3 * case.o_stride, Status.WRITE_ERROR),
    ):
        case.place(bench)
        bench.refused = range(start, start + CONFIG.bus_bytes)
        assert (await bench.run(**case.fields))["status"] == status
        bench.refused = range(0)
        await run(bench, case)  # and forgotten


@cocotb.test()
@cocotb.parametrize(cycles=[3, 40, 150, 400])
async def test_works_after_a_reset_in_the_middle_of_work(dut: Any, cycles: int) -> None:
    bench = EngineBench(dut, CONFIG, idle=0.2, latency=4, reads=READS)
    await bench.reset()
    case = case_of(bench.rng, 9, 4 * CONFIG.rows, 3 * CONFIG.cols)
    await run(bench, case)
    # The next test, or the next cycles of this one, resets the engine in the middle of this.
    bench.submit(**case.fields)
    await bench.cycles(cycles)


@cocotb.test()
async def test_works_after_the_last_reset(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, reads=READS)
    await bench.reset()
    await run(bench, random_case(bench.rng))
