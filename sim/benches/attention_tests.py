"""Tests of the attention engine with what it borrows; `test_attention` starts them."""

from __future__ import annotations

from typing import Any

import cocotb
import numpy as np
from ciuic_sim import jobs
from ciuic_sim.bench import parameters
from ciuic_sim.reference_bench import ReferenceBench

from ciuic.abi import Format, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K

CONFIG = OverlayConfig(**parameters())
READS = ("read", "read_parameters", *(f"read_weights_{port}" for port in range(CONFIG.ports)))
ROWS, COLS, BANK_ROWS = CONFIG.rows, CONFIG.cols, CONFIG.accumulator_rows


async def started(dut: Any, **settings: float) -> ReferenceBench:
    bench = ReferenceBench(dut, CONFIG, reads=READS, **settings)
    await bench.start()
    return bench


def random_shape(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Return queries, their size, keys and the size of values, often with an edge."""
    d_v = int(rng.choice([1, COLS - 1, COLS, COLS + 1, 2 * COLS, 3 * COLS + 2]))
    most = min(BANK_ROWS, CONFIG.attention_rows // -(-d_v // COLS))
    m = int(rng.choice([1, 2, most, int(rng.integers(1, most + 1))]))
    k = int(rng.choice([1, ROWS - 1, ROWS, ROWS + 1, 2 * ROWS, 3 * ROWS + 5]))
    n = int(rng.choice([1, COLS - 1, COLS, COLS + 1, 2 * COLS, int(rng.integers(1, 6 * COLS))]))
    return m, k, n, d_v


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.4], backpressure=[0, 0.5])
async def random_heads_equal_the_golden_model(dut: Any, idle: float, backpressure: float) -> None:
    bench = await started(dut, idle=idle, backpressure=backpressure, latency=5)
    for _ in range(8):
        await bench.compute(jobs.attention(bench.operands, *random_shape(bench.rng)))


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.4])
async def chained_heads_equal_the_golden_model(dut: Any, idle: float) -> None:
    """Units work on neighbouring jobs at a time."""
    bench = await started(dut, idle=idle, backpressure=idle / 2, latency=9)
    for count in (2, 5, 9):
        chain = [jobs.attention(bench.operands, *random_shape(bench.rng)) for _ in range(count)]
        await bench.compute(*chain)


@cocotb.test()
async def results_that_the_memory_takes_slowly_keep_their_sums(dut: Any) -> None:
    """The job after the next does not take the place of one that is still written."""
    bench = await started(dut, backpressure=0.95)
    shape = (BANK_ROWS, 1, COLS, 2 * COLS)
    await bench.compute(*(jobs.attention(bench.operands, *shape) for _ in range(5)))


@cocotb.test()
@cocotb.parametrize(octaves=[0.001, 1, 20, 1000, 1e9])
async def any_spread_of_scores_equals_the_golden_model(dut: Any, octaves: float) -> None:
    """From rows that are uniform to rows in which one key has it all."""
    bench = await started(dut, latency=3)
    for n in (COLS, 5 * COLS + 3):
        await bench.compute(jobs.attention(bench.operands, 5, ROWS, n, COLS + 1, octaves=octaves))


@cocotb.test()
@cocotb.parametrize(corner=[-128, 127, 0])
async def corners_of_the_numbers_equal_the_golden_model(dut: Any, corner: int) -> None:
    bench = await started(dut, latency=2)
    for octaves in (0.01, 5, 1000):
        await bench.compute(
            jobs.attention(
                bench.operands, 3, 3 * ROWS, 4 * COLS + 1, COLS, octaves=octaves, corner=corner
            )
        )


@cocotb.test()
async def rows_see_as_many_keys_as_they_should(dut: Any) -> None:
    """Every length, those of rows that see nothing and of rows that see all included."""
    bench = await started(dut, latency=2)
    n = 2 * COLS + 3
    for first in range(0, n + 2, BANK_ROWS):
        lengths = [*range(first, min(first + BANK_ROWS, n + 2))]
        await bench.compute(
            jobs.attention(bench.operands, len(lengths), ROWS, n, COLS, lengths=lengths)
        )
    # Keys that are not there would count as much as others.
    lengths = [0, 2**32 - 1]
    await bench.compute(
        jobs.attention(bench.operands, 2, ROWS, n, COLS, lengths=lengths, octaves=0.1)
    )


@cocotb.test()
async def bad_descriptors_are_refused_before_memory_is_touched(dut: Any) -> None:
    bench = await started(dut)
    good = jobs.attention(bench.operands, 2, 9, 5, 3)
    blocks = CONFIG.attention_rows // BANK_ROWS
    too_long = CONFIG.bank_words // BANK_ROWS * ROWS + 1
    bad = [
        *((Status.BAD_SIZE, {name: 0}) for name in ("m", "k", "n", "d_v")),
        *((Status.BAD_SIZE, {name: GEMM_MAX_K + 1}) for name in ("k", "n", "d_v")),
        *((Status.BAD_SIZE, {name: 2**32 - 1}) for name in ("m", "k", "n", "d_v")),
        (Status.BAD_SIZE, {"m": BANK_ROWS + 1}),
        (Status.BAD_SIZE, {"m": BANK_ROWS, "k": too_long}),
        (Status.BAD_SIZE, {"m": BANK_ROWS, "d_v": blocks * COLS + 1}),
        (Status.BAD_FORMAT, {"out_format": Format.INT32}),
    ]
    for status, change in bad:
        done = await bench.run(**{**good, **change})
        assert done == {"status": status, "busy": 0}, (change, done)
        bench.compare()
    assert bench.beats_read == bench.beats_written == 0
    await bench.compute(good, {**good, "k": 0}, good)


@cocotb.test()
@cocotb.parametrize(operand=["a_addr", "w_addr", "r_addr", "p_addr", "o_addr"])
async def refused_accesses_are_reported_with_their_job(dut: Any, operand: str) -> None:
    bench = await started(dut, idle=0.1, latency=7)
    fields = jobs.attention(bench.operands, 6, 2 * ROWS, 3 * COLS, COLS)
    bench.refused = range(fields[operand], fields[operand] + CONFIG.bus_bytes)
    bench.submit(**fields)
    done = await bench.finish(200_000)
    expected = Status.WRITE_ERROR if operand == "o_addr" else Status.READ_ERROR
    assert done["status"] == expected, Status(done["status"])
    bench.check_quiet()
    bench.refused = range(0)
    results = slice(fields["o_addr"], fields["o_addr"] + fields["m"] * fields["o_stride"])
    bench.image[results] = bench.memory[results]
    bench.compare()
    await bench.compute(fields)


@cocotb.test()
@cocotb.parametrize(cycles=[10, 40, 90, 170, 300, 500])
async def works_after_a_reset_in_the_middle(dut: Any, cycles: int) -> None:
    bench = await started(dut, idle=0.2, latency=5)
    await bench.compute(jobs.attention(bench.operands, 5, 2 * ROWS, 3 * COLS, COLS + 1))
    # The next test, or the next cycles of this one, resets the engine in the middle of these.
    for _ in range(3):
        bench.submit(**jobs.attention(bench.operands, 9, ROWS, 4 * COLS, 2 * COLS))
    await bench.cycles(cycles)
