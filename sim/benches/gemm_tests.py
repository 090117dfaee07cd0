"""Tests of the GEMM engine alone; they run inside the simulator, `test_gemm` starts them."""

from __future__ import annotations

import itertools
from typing import Any

import cocotb
import numpy as np
from ciuic_hw.gemm.activations import SLAB_WORDS
from ciuic_hw.gemm.job import word_bytes
from ciuic_sim import jobs
from ciuic_sim.bench import parameters
from ciuic_sim.reference_bench import ReferenceBench

from ciuic.abi import Flag, Format, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE
from ciuic.abi.numerics import W4_MAX_K

CONFIG = OverlayConfig(**parameters())
READS = (
    *("read", "read_parameters", "read_residual"),
    *(f"read_weights_{port}" for port in range(CONFIG.ports)),
)
BANK_ROWS = CONFIG.accumulator_rows
ROWS, COLS = CONFIG.rows, CONFIG.cols
SLAB = SLAB_WORDS * word_bytes(CONFIG)  # bytes of every row that are loaded at a time
SLICE = CONFIG.bank_words * ROWS  # bytes of a row that a bank of activations holds


async def started(dut: Any, **settings: float) -> ReferenceBench:
    bench = ReferenceBench(dut, CONFIG, reads=READS, **settings)
    await bench.start()
    return bench


def random_shape(rng: np.random.Generator) -> tuple[int, int, int]:
    """Return a shape of up to a few thousand products, often one with an edge."""
    edges = (
        (1, 2, BANK_ROWS, BANK_ROWS + 1),
        (1, ROWS - 1, ROWS, ROWS + 1, 33, 64, SLAB, SLAB + 1, 2 * SLAB + 3),
        (1, COLS - 1, COLS, COLS + 1, 2 * COLS + 1),
    )
    limits = (12, 100, 3 * COLS)
    sizes = [
        int(rng.choice(edge)) if rng.integers(3) == 0 else int(rng.integers(1, limit))
        for edge, limit in zip(edges, limits, strict=True)
    ]
    return sizes[0], sizes[1], sizes[2]


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.3, 0.8], backpressure=[0, 0.3, 0.8])
async def random_products_equal_the_golden_model(
    dut: Any, idle: float, backpressure: float
) -> None:
    bench = await started(dut, idle=idle, backpressure=backpressure, latency=5)
    for _ in range(8):
        await bench.compute(jobs.random_gemm(bench.operands, random_shape(bench.rng)))


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.4])
async def chained_products_equal_the_golden_model(dut: Any, idle: float) -> None:
    """Units work on neighbouring jobs at a time, whose options differ."""
    bench = await started(dut, idle=idle, backpressure=idle / 2, latency=9)
    for count in (2, 5, 9):
        chain = [jobs.random_gemm(bench.operands, random_shape(bench.rng)) for _ in range(count)]
        await bench.compute(*chain)


@cocotb.test()
async def every_option_equals_the_golden_model(dut: Any) -> None:
    bench = await started(dut, idle=0.1, latency=3)
    shape = (5, 2 * ROWS + 3, COLS + 3)
    w4, int8 = ({False, enabled} for enabled in (CONFIG.w4, CONFIG.int8_results))
    for options in itertools.product(w4, (False, True), (False, True), int8):
        names = ("w4", "parameters", "residual", "requantize")
        chosen = dict(zip(names, options, strict=True))
        if chosen["parameters"] or not chosen["requantize"]:
            await bench.compute(jobs.gemm_fields(bench.operands, shape, **chosen))


@cocotb.test()
@cocotb.parametrize(corner=[-128, 127, 0, -1])
async def corners_of_the_numbers_equal_the_golden_model(dut: Any, corner: int) -> None:
    bench = await started(dut, latency=2)
    for w4 in {False, CONFIG.w4}:
        fields = jobs.gemm_fields(bench.operands, (3, 100, COLS + 1), w4=w4, corner=corner)
        await bench.compute(fields)


@cocotb.test()
async def long_rows_are_sliced(dut: Any) -> None:
    """A row longer than a bank of activations is read anew for every block of columns."""
    bench = await started(dut, idle=0.1, latency=4)
    for k in (SLICE - 1, SLICE, SLICE + 1, 2 * SLICE + ROWS + 3):
        if k < 5000:
            await bench.compute(jobs.random_gemm(bench.operands, (3, k, COLS + 2)))


@cocotb.test()
async def tiles_of_rows_follow_one_another(dut: Any) -> None:
    bench = await started(dut, latency=4)
    for m, k in ((2 * BANK_ROWS + 1, 3), (BANK_ROWS + 3, 40), (BANK_ROWS, 2 * ROWS)):
        await bench.compute(jobs.random_gemm(bench.operands, (m, k, COLS + 1)))


@cocotb.test()
async def scales_stay_until_the_last_row_of_a_tile_used_them(dut: Any) -> None:
    """Behind a long tile of rows short ones follow, and with each another group's scales."""
    bench = await started(dut)
    for k in (2 * ROWS, 40, 62, 76, 100) if CONFIG.w4 else ():
        for m in (BANK_ROWS + 1, BANK_ROWS + 2):
            await bench.compute(jobs.gemm_fields(bench.operands, (m, k, COLS + 1), w4=True))


@cocotb.test()
async def a_residual_may_be_where_the_results_go(dut: Any) -> None:
    bench = await started(dut, idle=0.3, latency=6)
    for _ in range(4):
        fields = jobs.gemm_fields(bench.operands, (7, 30, COLS + 5), residual=True)
        fields |= {"o_addr": fields["r_addr"], "o_stride": fields["r_stride"]}
        await bench.compute(fields)


@cocotb.test()
async def bad_descriptors_are_refused_before_memory_is_touched(dut: Any) -> None:
    bench = await started(dut)
    good = jobs.gemm_fields(bench.operands, (2, 9, 5))
    w4 = {"flags": Flag.W4}
    bad = [
        (Status.BAD_SIZE, {"m": 0}),
        (Status.BAD_SIZE, {"k": 0}),
        (Status.BAD_SIZE, {"n": 0}),
        (Status.BAD_SIZE, {"m": MAX_SIZE + 1}),
        (Status.BAD_SIZE, {"n": MAX_SIZE + 1}),
        (Status.BAD_SIZE, {"k": GEMM_MAX_K + 1}),
        (Status.BAD_SIZE, {"k": W4_MAX_K + 1, **w4}),
        (Status.BAD_FORMAT, {"out_format": Format.INT16}),
        (Status.BAD_FORMAT, {"out_format": 0x80}),
        (Status.BAD_FORMAT, {"out_format": Format.INT8}),
    ]
    if not CONFIG.w4:
        bad.append((Status.BAD_FORMAT, w4))
    if not CONFIG.int8_results:
        bad.append((Status.BAD_FORMAT, {"out_format": Format.INT8, "flags": Flag.PARAMETERS}))
    for status, change in bad:
        done = await bench.run(**{**good, **change})
        assert done == {"status": status, "busy": 0}, (change, done)
        bench.compare()
    assert bench.beats_read == bench.beats_written == 0
    await bench.compute(good, {**good, "k": 0}, good)


@cocotb.test()
@cocotb.parametrize(operand=["a_addr", "w_addr", "p_addr", "r_addr", "o_addr"])
async def refused_accesses_are_reported_with_their_job(dut: Any, operand: str) -> None:
    bench = await started(dut, idle=0.1, latency=7)
    fields = jobs.gemm_fields(
        bench.operands, (6, 3 * ROWS + 1, COLS + 1), parameters=True, residual=True
    )
    bench.refused = range(fields[operand], fields[operand] + CONFIG.bus_bytes)
    bench.submit(**fields)
    done = await bench.finish(200_000)
    expected = Status.WRITE_ERROR if operand == "o_addr" else Status.READ_ERROR
    assert done["status"] == expected, Status(done["status"])
    bench.check_quiet()
    bench.refused = range(0)
    bench.take_over(fields)
    bench.compare()
    await bench.compute(fields)


@cocotb.test()
@cocotb.parametrize(cycles=[10, 30, 60, 100, 170, 300, 500])
async def works_after_a_reset_in_the_middle(dut: Any, cycles: int) -> None:
    bench = await started(dut, idle=0.2, latency=5)
    await bench.compute(jobs.random_gemm(bench.operands, (5, 40, COLS + 1)))
    # The next test, or the next cycles of this one, resets the engine in the middle of these.
    for _ in range(3):
        bench.submit(**jobs.random_gemm(bench.operands, (9, 60, 2 * COLS + 1)))
    await bench.cycles(cycles)


@cocotb.test()
async def ragged_shapes_are_no_slower_than_padded_ones(dut: Any) -> None:
    bench = await started(dut, latency=4)

    async def cycles(shape: tuple[int, int, int]) -> int:
        start = bench.now()
        await bench.compute(jobs.gemm_fields(bench.operands, shape))
        return bench.now() - start

    for m, k, n in ((3, 2 * ROWS - 1, COLS - 3), (BANK_ROWS - 1, 17, 3), (1, 3, COLS + 1)):
        padded = (m, -(-k // ROWS) * ROWS, -(-n // COLS) * COLS)
        assert await cycles((m, k, n)) <= await cycles(padded) + CONFIG.bus_bytes
