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
from ciuic.reference import softmax, valid_lengths

CONFIG = OverlayConfig(**parameters())
DTYPES = {Format.INT32: np.int32, Format.INT16: np.int16, Format.INT8: np.int8}
RESULTS = {Format.Q0_16: np.uint16, Format.Q0_8: np.uint8}
SCORES_AT, LENGTHS_AT, RESULTS_AT = 0x0, 0x70000, 0x80000
SLOT_BYTES, LENGTHS_BYTES = 0x8000, 0x1000  # of operands in one of several slots
UNTOUCHED = 0xA5
PIPELINE_CYCLES = 104
DESCRIPTOR_CYCLES = 12
EDGES = sorted({1, 2, CONFIG.lanes - 1, CONFIG.lanes, CONFIG.lanes + 1, 2 * CONFIG.lanes + 1})


class SoftmaxBench(EngineBench):
    """The softmax engine with its memory."""

    def __init__(self, dut: Any, **settings: Any) -> None:
        super().__init__(dut, CONFIG, reads=("read", "read_lengths"), **settings)


@dataclass
class Case:
    """One descriptor, its scores in memory and the results that it must leave there.

    Cases that run together have different slots.
    """

    scores: npt.NDArray[np.int8 | np.int16 | np.int32]
    out: Format = Format.Q0_16
    scale: float = 0.1
    row_offset: int | None = None
    lengths: npt.NDArray[np.uint32] | None = None
    gap: int = 0
    slot: int = 0
    fields: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, cols = self.scores.shape
        in_format = next(one for one, dtype in DTYPES.items() if dtype == self.scores.dtype)
        self.encoded = SoftmaxScale.encode(self.scale)
        self.a_stride = self._stride(cols * in_format.nbytes)
        self.o_stride = self._stride(cols * self.out.nbytes)
        self.fields = {
            "opcode": Opcode.SOFTMAX,
            "a_addr": SCORES_AT + self.slot * SLOT_BYTES,
            "o_addr": RESULTS_AT + self.slot * SLOT_BYTES,
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
        flags = Flag(self.fields.get("flags", 0))
        if self.row_offset is not None:
            flags |= Flag.CAUSAL
            self.fields["row_offset"] = self.row_offset
        if self.lengths is not None:
            flags |= Flag.LENGTHS
            self.fields["p_addr"] = LENGTHS_AT + self.slot * LENGTHS_BYTES
        self.fields["flags"] = flags

    def _stride(self, nbytes: int) -> int:
        bus = CONFIG.bus_bytes
        return (-(-nbytes // bus) + self.gap) * bus

    def place(self, bench: EngineBench) -> None:
        """Write the scores to the memory, random bytes around them."""
        rows = self.scores.shape[0]
        image = bench.rng.integers(0, 256, (rows, self.a_stride), np.uint8)
        raw = self.scores.view(np.uint8).reshape(rows, -1)
        image[:, : raw.shape[1]] = raw
        bench.place(self.fields["a_addr"], image)
        if self.lengths is not None:
            bench.place(self.fields["p_addr"], self.lengths)
        bench.memory[RESULTS_AT:] = UNTOUCHED

    def expected(self) -> npt.NDArray[np.uint16 | np.uint8]:
        """Return what the golden model makes of the scores."""
        rows, cols = self.scores.shape
        lengths = valid_lengths(rows, cols, row_offset=self.row_offset, lengths=self.lengths)
        return softmax(self.scores, scale=self.encoded, out=self.out, lengths=lengths)

    def draw(self, image: npt.NDArray[np.uint8]) -> None:
        """Write the results into an image of the memory."""
        rows = self.scores.shape[0]
        results = self.expected().view(np.uint8).reshape(rows, -1)
        for row, raw in enumerate(results):
            image[self.fields["o_addr"] + row * self.o_stride :][: raw.size] = raw


def check(bench: SoftmaxBench, *cases: Case) -> None:
    """Compare the memory with the golden model, bytes between and behind rows included."""
    image = np.full(bench.memory.size, UNTOUCHED, np.uint8)
    for case in cases:
        case.draw(image)
    np.testing.assert_array_equal(bench.memory[RESULTS_AT:], image[RESULTS_AT:])


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


def random_lengths(rng: np.random.Generator, rows: int, cols: int) -> npt.NDArray[np.uint32]:
    """Return lengths of rows, the shortest, the longest and impossible ones among them."""
    lengths = rng.integers(0, cols, rows, endpoint=True)
    special = rng.choice([0, 1, cols, cols + 1, 2**32 - 1], rows)
    return np.where(rng.random(rows) < 0.5, lengths, special).astype(np.uint32)


def random_case(rng: np.random.Generator, slot: int = 0) -> Case:
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
        lengths=random_lengths(rng, rows, cols) if rng.integers(2) else None,
        gap=int(rng.integers(3)),
        slot=slot,
    )


async def run(bench: EngineBench, case: Case) -> dict[str, int]:
    """Run a case and check what it leaves in memory."""
    case.place(bench)
    done = await bench.run(**case.fields)
    assert done["status"] == Status.OK, Status(done["status"])
    check(bench, case)
    return done


async def run_together(bench: SoftmaxBench, cases: list[Case]) -> list[int]:
    """Submit cases of different slots at once; return their statuses."""
    for case in cases:
        case.place(bench)
    for case in cases:
        bench.submit(**case.fields)
    statuses = [(await bench.finish(100_000))["status"] for _ in cases]
    bench.check_quiet()
    return statuses


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.3, 0.8], backpressure=[0, 0.3, 0.8])
async def test_random_operations_equal_the_golden_model(
    dut: Any, idle: float, backpressure: float
) -> None:
    bench = SoftmaxBench(dut, idle=idle, backpressure=backpressure, latency=5)
    await bench.reset()
    for _ in range(6):
        await run(bench, random_case(bench.rng))


@cocotb.test()
@cocotb.parametrize(idle=[0, 0.3], backpressure=[0, 0.5])
async def test_neighbouring_descriptors_equal_the_golden_model(
    dut: Any, idle: float, backpressure: float
) -> None:
    """Rows of one follow those of another in all stages, whatever differs between them."""
    bench = SoftmaxBench(dut, idle=idle, backpressure=backpressure, latency=9)
    await bench.reset()
    for _ in range(3):
        cases = [random_case(bench.rng, slot) for slot in range(8)]
        assert await run_together(bench, cases) == [Status.OK] * len(cases)
        check(bench, *cases)


@cocotb.test()
async def test_formats_and_edge_lengths_equal_the_golden_model(dut: Any) -> None:
    bench = SoftmaxBench(dut)
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
    bench = SoftmaxBench(dut, idle=backpressure / 4, backpressure=backpressure)
    await bench.reset()
    scores = bench.rng.normal(0, 100, (3, CONFIG.max_row)).astype(np.int16)
    await run(bench, Case(scores, scale=0.02))
    await run(bench, Case(scores, scale=0.02, row_offset=CONFIG.max_row - 2, out=Format.Q0_8))


@cocotb.test()
async def test_extreme_rows(dut: Any) -> None:
    bench = SoftmaxBench(dut)
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
async def test_equal_elements_close_to_a_unit_of_8_bits(dut: Any) -> None:
    """What each is moved by to the unit adds up along the row."""
    bench = SoftmaxBench(dut)
    await bench.reset()
    cols = min(CONFIG.max_row, 240)
    for units in (2, 3, 4, 15, 16):
        for part in (2.0**-5, 2.0**-7, 2.0**-9, -(2.0**-7)):
            scores = np.full((1, cols), -1, np.int8)
            equal = min(200 // (units + 1), cols // 2)
            scores[:, :equal] = 0
            others = (256 / (units + part) - equal) / (cols - equal)
            await run(bench, Case(scores, scale=-np.log(others), out=Format.Q0_8))


@cocotb.test()
async def test_rows_without_a_valid_element_are_zero(dut: Any) -> None:
    bench = SoftmaxBench(dut, latency=2)
    await bench.reset()
    cols = 2 * CONFIG.lanes + 1
    for dtype in DTYPES.values():
        for out in RESULTS:
            scores = random_scores(bench.rng, 7, cols, dtype)
            for lengths in ([0] * 7, [0, 0, 1, 0, cols, 0, 0], [1, 0, 0, cols, 2**32 - 1, 0, 3]):
                case = Case(scores, out=out, lengths=np.array(lengths, np.uint32))
                done = await run(bench, case)
                # A row without elements takes a cycle of the lanes.
                words = [max(1, -(-min(length, cols) // CONFIG.lanes)) for length in lengths]
                assert done["busy"] == sum(words)
    await run(bench, Case(scores, lengths=np.full(7, cols, np.uint32), row_offset=1))


@cocotb.test()
async def test_many_short_rows(dut: Any) -> None:
    bench = SoftmaxBench(dut, latency=3)
    await bench.reset()
    for cols in (1, 2, CONFIG.lanes):
        scores = random_scores(bench.rng, 200, cols, np.int8)
        await run(bench, Case(scores))
        await run(bench, Case(scores, lengths=random_lengths(bench.rng, 200, cols)))
        await run(bench, Case(scores, row_offset=0))


@cocotb.test()
async def test_bad_descriptors_are_refused_before_memory_is_touched(dut: Any) -> None:
    bench = SoftmaxBench(dut)
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
    bench = SoftmaxBench(dut, latency=7)
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
async def test_an_error_belongs_to_its_descriptor_alone(dut: Any) -> None:
    bench = SoftmaxBench(dut, latency=7)
    await bench.reset()
    bus = CONFIG.bus_bytes
    lengths = np.array([[9, 0, 4], [0, 9, 4]], np.uint32)  # the first row of odd ones is empty
    cases = [
        Case(random_scores(bench.rng, 3, 9, np.int8), slot=slot, lengths=lengths[slot % 2])
        for slot in range(5)
    ]
    for guilty, case in enumerate(cases):
        first_row = case.fields["a_addr"] + guilty % 2 * case.a_stride
        for address, status in (
            (first_row, Status.READ_ERROR),
            (case.fields["a_addr"] + 2 * case.a_stride, Status.READ_ERROR),
            (case.fields["p_addr"], Status.READ_ERROR),
            (case.fields["o_addr"], Status.WRITE_ERROR),
        ):
            bench.refused = range(address, address + bus)
            expected = [status if slot == guilty else Status.OK for slot in range(5)]
            assert await run_together(bench, cases) == expected, (guilty, address)
    bench.refused = range(0)
    assert await run_together(bench, cases) == [Status.OK] * 5
    check(bench, *cases)


@cocotb.test()
async def test_a_refused_descriptor_leaves_its_neighbours_alone(dut: Any) -> None:
    bench = SoftmaxBench(dut, latency=3)
    await bench.reset()
    cases = [random_case(bench.rng, slot) for slot in range(6)]
    for case, change in zip(cases[1::2], ({"n": 0}, {"shift": 56}, {"out_format": 0}), strict=True):
        case.fields |= change
    refused = [Status.BAD_SIZE, Status.BAD_FORMAT, Status.BAD_FORMAT]
    statuses = await run_together(bench, cases)
    assert statuses[::2] == [Status.OK] * 3
    assert statuses[1::2] == refused
    check(bench, *cases[::2])


@cocotb.test()
@cocotb.parametrize(cycles=[20, 40, 60, 100, 200, 300])
async def test_works_after_a_reset_in_the_middle_of_rows(dut: Any, cycles: int) -> None:
    bench = SoftmaxBench(dut, idle=0.2)
    await bench.reset()
    case = Case(random_scores(bench.rng, 20, 50, np.int8))
    await run(bench, case)
    # The next test, or the next cycles of this one, resets the engine in the middle of this.
    bench.submit(**case.fields)
    await bench.cycles(cycles)


@cocotb.test()
async def test_a_write_is_requested_only_when_its_row_was_read(dut: Any) -> None:
    """Otherwise it would keep the write channel from other engines while it has no data."""
    bench = SoftmaxBench(dut, idle=0.7)
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
    bench = SoftmaxBench(dut)
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


@cocotb.test()
async def test_the_rows_of_many_descriptors_sustain_the_rate_too(dut: Any) -> None:
    bench = SoftmaxBench(dut)
    await bench.reset()
    rows, cols, heads = 32, 64, 8
    cases = [
        Case(random_scores(bench.rng, rows, cols, np.int8), out=Format.Q0_8, slot=slot)
        for slot in range(heads)
    ]
    start = bench.now()
    assert await run_together(bench, cases) == [Status.OK] * heads
    cycles = bench.now() - start
    check(bench, *cases)
    row_cycles = -(-cols // min(CONFIG.lanes, CONFIG.bus_bytes))
    bound = heads * rows * row_cycles
    cocotb.log.info("%d cycles, %.3f of the bound", cycles, bound / cycles)
    # Between two descriptors the write channel waits for the acknowledgement of the last row.
    assert cycles <= bound + 2 * row_cycles + PIPELINE_CYCLES + heads * DESCRIPTOR_CYCLES
