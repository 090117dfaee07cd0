"""Tests of the softmax engine alone; they run inside the simulator, `test_softmax` starts them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from ciuic_sim.bench import parameters
from ciuic_sim.engine_bench import EngineBench
from cocotb.triggers import RisingEdge

from ciuic.abi import Flag, Format, Opcode, OverlayConfig, Status
from ciuic.abi.numerics import SoftmaxScale
from ciuic.reference import causal_lengths, softmax

CONFIG = OverlayConfig(**parameters())
DTYPES = {Format.INT32: np.int32, Format.INT16: np.int16, Format.INT8: np.int8}
RESULTS = {Format.Q0_16: np.uint16, Format.Q0_8: np.uint8}
SCORES_AT, RESULTS_AT = 0x0, 0x80000
UNTOUCHED = 0xA5
PIPELINE_CYCLES = 60
EDGES = sorted({1, 2, CONFIG.lanes - 1, CONFIG.lanes, CONFIG.lanes + 1, 2 * CONFIG.lanes + 1})


@dataclass
class Case:
    """One descriptor, its scores in memory and the results that it must leave there."""

    scores: npt.NDArray[np.int8 | np.int16 | np.int32]
    out: Format = Format.Q0_16
    scale: float = 0.1
    row_offset: int | None = None
    gap: int = 0
    fields: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, cols = self.scores.shape
        in_format = next(one for one, dtype in DTYPES.items() if dtype == self.scores.dtype)
        self.encoded = SoftmaxScale.encode(self.scale)
        self.a_stride = self._stride(cols * in_format.nbytes)
        self.o_stride = self._stride(cols * self.out.nbytes)
        self.fields = {
            "opcode": Opcode.SOFTMAX,
            "a_addr": SCORES_AT,
            "o_addr": RESULTS_AT,
            "m": rows,
            "n": cols,
            "a_stride": self.a_stride,
            "o_stride": self.o_stride,
            "in_format": in_format,
            "out_format": self.out,
            "multiplier": self.encoded.multiplier,
            "shift": self.encoded.shift,
            **self.fields,
        }
        if self.row_offset is not None:
            self.fields |= {"flags": Flag.CAUSAL, "row_offset": self.row_offset}

    def _stride(self, nbytes: int) -> int:
        bus = CONFIG.bus_bytes
        return (-(-nbytes // bus) + self.gap) * bus

    def place(self, bench: EngineBench) -> None:
        """Write the scores to the memory, random bytes around them."""
        rows = self.scores.shape[0]
        image = bench.rng.integers(0, 256, (rows, self.a_stride), np.uint8)
        raw = self.scores.view(np.uint8).reshape(rows, -1)
        image[:, : raw.shape[1]] = raw
        bench.place(SCORES_AT, image)
        bench.memory[RESULTS_AT:] = UNTOUCHED

    def expected(self) -> npt.NDArray[np.uint16 | np.uint8]:
        """Return what the golden model makes of the scores."""
        rows, cols = self.scores.shape
        lengths = None
        if self.row_offset is not None:
            lengths = causal_lengths(rows, cols, self.row_offset)
        return softmax(self.scores, scale=self.encoded, out=self.out, lengths=lengths)

    def check(self, bench: EngineBench) -> None:
        """Compare the memory with the golden model, bytes between and behind rows included."""
        rows = self.scores.shape[0]
        image = np.full(bench.memory.size - RESULTS_AT, UNTOUCHED, np.uint8)
        results = self.expected().view(np.uint8).reshape(rows, -1)
        for row, raw in enumerate(results):
            image[row * self.o_stride :][: raw.size] = raw
        np.testing.assert_array_equal(bench.memory[RESULTS_AT:], image)


def random_scores(
    rng: np.random.Generator, rows: int, cols: int, dtype: npt.DTypeLike
) -> npt.NDArray[np.int8 | np.int16 | np.int32]:
    """Return scores of one of several kinds: whole range, few values, near the ends."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = rng.integers(4)
    if kind == 0:
        values = rng.integers(low, high, (rows, cols), endpoint=True)
    elif kind == 1:
        values = rng.integers(-2, 3, (rows, cols))
    elif kind == 2:
        values = rng.choice([low, low + 1, 0, high - 1, high], (rows, cols))
    else:
        values = np.clip(rng.normal(0, high / 20, (rows, cols)), low, high)
    return np.ascontiguousarray(values.astype(dtype))


def random_case(rng: np.random.Generator) -> Case:
    """Return a random operation of up to a few hundred elements."""
    cols = int(rng.choice([*EDGES, rng.integers(1, 100)]))
    rows = int(rng.integers(1, max(2, 300 // cols)))
    dtype = rng.choice(list(DTYPES.values()))
    scores = random_scores(rng, rows, cols, dtype)
    span = float(scores.max()) - float(scores.min()) + 1
    return Case(
        scores,
        out=Format(rng.choice([Format.Q0_16, Format.Q0_8])),
        scale=float(np.exp(rng.uniform(np.log(0.01), np.log(100)))) / span,
        row_offset=int(rng.integers(0, cols + 2)) if rng.integers(2) else None,
        gap=int(rng.integers(3)),
    )


async def run(bench: EngineBench, case: Case) -> dict[str, int]:
    """Run a case and check what it leaves in memory."""
    case.place(bench)
    done = await bench.run(**case.fields)
    assert done["status"] == Status.OK, Status(done["status"])
    case.check(bench)
    return done


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.3, 0.8], backpressure=[0, 0.3, 0.8])
async def test_random_operations_equal_the_golden_model(
    dut: Any, idle: float, backpressure: float
) -> None:
    bench = EngineBench(dut, CONFIG, idle=idle, backpressure=backpressure, latency=5)
    await bench.reset()
    for _ in range(6):
        await run(bench, random_case(bench.rng))


@cocotb.test()
async def test_formats_and_edge_lengths_equal_the_golden_model(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG)
    await bench.reset()
    for dtype in DTYPES.values():
        for out in RESULTS:
            for cols in EDGES:
                scores = random_scores(bench.rng, 5, cols, dtype)
                span = float(scores.max()) - float(scores.min()) + 1
                await run(bench, Case(scores, out=out, scale=5 / span))


@cocotb.test()
@cocotb.parametrize(backpressure=[0, 0.5])
async def test_longest_rows_do_not_block(dut: Any, backpressure: float) -> None:
    bench = EngineBench(dut, CONFIG, idle=backpressure / 4, backpressure=backpressure)
    await bench.reset()
    scores = bench.rng.normal(0, 100, (3, CONFIG.max_row)).astype(np.int16)
    await run(bench, Case(scores, scale=0.02))
    await run(bench, Case(scores, scale=0.02, row_offset=CONFIG.max_row - 2, out=Format.Q0_8))


@cocotb.test()
async def test_extreme_rows(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG)
    await bench.reset()
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    cols = 3 * CONFIG.lanes + 1
    scores = np.zeros((5, cols), np.int32)
    scores[1] = low
    scores[2] = high
    scores[3, -1] = high
    scores[4, ::2], scores[4, 1::2] = low, high
    for scale in (1e-30, 1e-9, 1.0, 1e30):
        for out in RESULTS:
            await run(bench, Case(scores, scale=scale, out=out))


@cocotb.test()
async def test_many_short_rows(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, latency=3)
    await bench.reset()
    for cols in (1, 2, CONFIG.lanes):
        scores = random_scores(bench.rng, 200, cols, np.int8)
        await run(bench, Case(scores))
        await run(bench, Case(scores, row_offset=0))


@cocotb.test()
async def test_bad_descriptors_are_refused_before_memory_is_touched(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG)
    await bench.reset()
    scores = random_scores(bench.rng, 2, 5, np.int16)
    refused = {
        Status.BAD_SIZE: [
            {"m": 0},
            {"n": 0},
            {"n": CONFIG.max_row + 1},
            {"n": CONFIG.max_row << 8},
            {"m": 1 << 24},
        ],
        Status.BAD_FORMAT: [
            {"in_format": Format.Q0_16},
            {"in_format": 0x80},
            {"out_format": Format.INT8},
            {"out_format": 0x84},
            {"multiplier": 1 << 17},
            {"multiplier": (1 << 16) - 1},
            {"shift": 56},
        ],
    }
    for status, changes in refused.items():
        for change in changes:
            case = Case(scores, fields=change)
            case.place(bench)
            done = await bench.run(**case.fields)
            assert done == {"status": status, "busy": 0}, change
            assert (bench.memory[RESULTS_AT:] == UNTOUCHED).all()
    assert bench.beats_read == bench.beats_written == 0
    await run(bench, Case(scores))


@cocotb.test()
async def test_refused_reads_and_writes_are_reported_at_the_end(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG, latency=7)
    await bench.reset()
    case = Case(random_scores(bench.rng, 6, 40, np.int16))
    bus = CONFIG.bus_bytes
    for start, status in (
        (SCORES_AT + 2 * case.a_stride, Status.READ_ERROR),
        (RESULTS_AT + 5 * case.o_stride, Status.WRITE_ERROR),
    ):
        case.place(bench)
        bench.refused = range(start, start + bus)
        done = await bench.run(**case.fields)
        assert done["status"] == status
        bench.refused = range(0)
        await run(bench, case)


@cocotb.test()
@cocotb.parametrize(cycles=[20, 40, 60, 100, 200, 300])
async def test_works_after_a_reset_in_the_middle_of_rows(dut: Any, cycles: int) -> None:
    bench = EngineBench(dut, CONFIG, idle=0.2)
    await bench.reset()
    case = Case(random_scores(bench.rng, 20, 50, np.int8))
    await run(bench, case)
    # The next test, or the next cycles of this one, resets the engine in the middle of this.
    bench.submit(**case.fields)
    await bench.cycles(cycles)


@cocotb.test()
async def test_a_write_is_requested_only_when_its_row_was_read(dut: Any) -> None:
    """Otherwise it would keep the write channel from other engines while it has no data."""
    bench = EngineBench(dut, CONFIG, idle=0.7)
    await bench.reset()
    case = Case(random_scores(bench.rng, 12, 40, np.int16))
    row_beats = case.a_stride // CONFIG.bus_bytes
    early = []

    async def watch() -> None:
        beats = rows = 0
        while True:
            await RisingEdge(dut.clk)
            beats += int(dut.read__data__valid.value & dut.read__data__ready.value)
            if dut.write__request__valid.value & dut.write__request__ready.value:
                rows += 1
                early.append(beats < rows * row_beats)

    watching = cocotb.start_soon(watch())
    await run(bench, case)
    watching.cancel()
    assert early == [False] * 12


@cocotb.test()
async def test_busy_counts_words_and_lanes_sustain_their_rate(dut: Any) -> None:
    bench = EngineBench(dut, CONFIG)
    await bench.reset()
    for dtype, out in ((np.int32, Format.Q0_16), (np.int16, Format.Q0_16), (np.int8, Format.Q0_8)):
        for rows, cols in ((64, 64), (32, 197), (32, 1024)):
            if cols > CONFIG.max_row:
                continue
            scores = random_scores(bench.rng, rows, cols, dtype)
            start = bench.now()
            done = await run(bench, Case(scores, out=out))
            cycles = bench.now() - start
            words = -(-cols // CONFIG.lanes)
            assert done["busy"] == rows * words
            widest = max(np.dtype(dtype).itemsize, np.dtype(RESULTS[out]).itemsize)
            beats = -(-cols * widest // CONFIG.bus_bytes)
            row_cycles = max(words, beats)  # the lanes or the bus
            bound = rows * row_cycles
            cocotb.log.info(
                "%d lanes, bus of %d bytes, %d x %d %s: %d cycles, lane utilization %.3f, "
                "%.3f of the bound",
                CONFIG.lanes,
                CONFIG.bus_bytes,
                rows,
                cols,
                np.dtype(dtype).name,
                cycles,
                rows * cols / (CONFIG.lanes * cycles),
                bound / cycles,
            )
            # The first row passes two stages before the third, and every pipeline fills once.
            assert cycles <= bound + 2 * row_cycles + PIPELINE_CYCLES
