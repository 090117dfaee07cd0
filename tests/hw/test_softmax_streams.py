# amaranth: UnusedElaboratable=no
"""The softmax engine's parts with handshakes, and the engine, in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from ciuic_hw.softmax.gearbox import Gearbox
from ciuic_hw.softmax.maximum import MaximumStage
from ciuic_hw.softmax.rows import RowAddresses, RowLengths, RowWords
from ciuic_hw.softmax.writer import RowWriter
from ciuic_hw.streams import PipelineFifo, delay

from ciuic.abi import OverlayConfig, numerics

pytestmark = pytest.mark.rtl

PAUSES = [0.0, 0.3, 0.8]


def simulate(dut: Any, *testbenches: Any, deadline_cycles: int = 20_000) -> None:
    """Run testbenches to their ends; fail after a number of cycles."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    for _ in range(2 * deadline_cycles):
        if not simulator.advance():
            return
    raise AssertionError(f"not finished within {deadline_cycles} cycles")


async def offer(ctx: Any, port: Any, payload: Any, rng: np.random.Generator, pause: float) -> None:
    """Put one payload into a stream."""
    while rng.random() < pause:
        await ctx.tick()
    ctx.set(port.payload, payload)
    ctx.set(port.valid, 1)
    await ctx.tick().until(port.ready)
    ctx.set(port.valid, 0)


async def take(ctx: Any, port: Any, rng: np.random.Generator, pause: float) -> Any:
    """Take one payload from a stream."""
    while rng.random() < pause:
        await ctx.tick()
    ctx.set(port.ready, 1)
    (payload,) = await ctx.tick().sample(port.payload).until(port.valid)
    ctx.set(port.ready, 0)
    return payload


def span(last: int, limit: int, lanes: int) -> dict[str, int]:
    """Return where a row ends, as in `span_layout`."""
    short, single = int(last < lanes), int(limit < lanes)
    return {"last": last, "limit": limit, "short": short, "single": single}


def cut(data: bytes, nbytes: int) -> list[bytes]:
    return [data[start : start + nbytes] for start in range(0, len(data), nbytes)]


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("mode", range(5))
def test_gearbox_keeps_the_bytes_of_rows(mode: int, pause: float) -> None:
    modes = [(8, 2), (8, 4), (8, 8), (8, 16), (4, 16)]
    rng = np.random.default_rng(mode)
    rows = [rng.bytes(int(size)) for size in [1, 2, 8, 9, *rng.integers(1, 64, 20)]]
    input_bytes, output_bytes = modes[mode]
    dut = Gearbox(modes, max_bytes=64)

    async def producer(ctx: Any) -> None:
        source = np.random.default_rng(1)
        for row in rows:
            for word in cut(row, input_bytes):
                await offer(ctx, dut.i, int.from_bytes(word, "little"), source, pause)

    async def lengths(ctx: Any) -> None:
        known = np.random.default_rng(3)
        for row in rows:
            await offer(ctx, dut.row, {"mode": mode, "last_byte": len(row) - 1}, known, pause / 2)

    async def consumer(ctx: Any) -> None:
        sink = np.random.default_rng(2)
        for row in rows:
            expected = cut(row, output_bytes)
            for index, word in enumerate(expected):
                found = await take(ctx, dut.o, sink, pause)
                raw = int(found.data).to_bytes(16, "little")
                assert raw[: len(word)] == word
                assert found.final == (index == len(expected) - 1)

    simulate(dut, producer, lengths, consumer)


@pytest.mark.parametrize("mode", range(3))
def test_gearbox_leaves_the_narrower_side_no_idle_cycle(mode: int) -> None:
    modes = [(8, 2), (8, 8), (4, 16)]
    rows, row_bytes = 10, 30
    chunks = rows * -(-row_bytes // min(modes[mode]))
    dut = Gearbox(modes, max_bytes=64)
    finals = []

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.row.payload, {"mode": mode, "last_byte": row_bytes - 1})
        ctx.set(dut.row.valid, 1)
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(chunks + 3):
            _, _, valid, payload = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            finals.append(valid and payload.final)

    simulate(dut, testbench)
    assert sum(finals) == rows


class Delayed(wiring.Component):
    """A pipeline that cannot stall before a `PipelineFifo`."""

    def __init__(self, *, depth: int, latency: int) -> None:
        self.depth = depth
        self.latency = latency
        super().__init__({"i": In(stream.Signature(16)), "o": Out(stream.Signature(16))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.fifo = fifo = PipelineFifo(16, depth=self.depth, latency=self.latency)
        wiring.connect(m, fifo.o, wiring.flipped(self.o))
        m.d.comb += [
            self.i.ready.eq(fifo.room),
            fifo.valid.eq(delay(m, self.i.valid & self.i.ready, self.latency)),
            fifo.payload.eq(delay(m, self.i.payload, self.latency)),
        ]
        return m


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("latency", [0, 1, 5])
def test_pipeline_fifo_loses_nothing(latency: int, pause: float) -> None:
    for depth in (latency + 4, latency + 5, 16):
        dut = Delayed(depth=depth, latency=latency)
        values = list(range(1, 100))

        async def producer(ctx: Any, dut: Delayed = dut, values: Sequence[int] = values) -> None:
            source = np.random.default_rng(1)
            for value in values:
                await offer(ctx, dut.i, value, source, 0.2)

        async def consumer(ctx: Any, dut: Delayed = dut, values: Sequence[int] = values) -> None:
            sink = np.random.default_rng(2)
            for value in values:
                assert await take(ctx, dut.o, sink, pause) == value

        simulate(dut, producer, consumer)


def test_pipeline_fifo_must_hold_more_than_its_latency() -> None:
    with pytest.raises(ValueError, match=r"^depth must be more than 7, not 7$"):
        PipelineFifo(8, depth=7, latency=5)


@pytest.mark.parametrize(("first", "limit"), [(0, 3), (2, 2), (15, 15), (5, 11)])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("pause", PAUSES)
def test_row_lengths_are_those_of_mask_and_list(
    first: int, limit: int, listed: bool, pause: float
) -> None:
    dut = RowLengths(16)
    lengths = [0, 1, 16, 2**32 - 1, 3, 2, 0, 5]
    found = []

    async def producer(ctx: Any) -> None:
        source = np.random.default_rng(1)
        await ctx.tick().repeat(3)
        for length in lengths if listed else []:
            await offer(ctx, dut.i, length, source, pause)

    async def consumer(ctx: Any) -> None:
        sink = np.random.default_rng(2)
        ctx.set(dut.first, first)
        ctx.set(dut.limit, limit)
        ctx.set(dut.listed, listed)
        await ctx.tick()
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for _ in lengths:
            row = await take(ctx, dut.o, sink, pause)
            found.append(0 if row.empty else row.last + 1)
            assert not (row.empty and row.last)

    simulate(dut, producer, consumer)
    reach = [min(first + row, limit) + 1 for row in range(len(lengths))]
    assert found == (np.minimum(reach, lengths).tolist() if listed else reach)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize(("first", "limit"), [(0, 9), (9, 9), (3, 3), (4, 31), (0, 0)])
def test_row_words_cover_each_row(first: int, limit: int, padded: bool) -> None:
    lanes = 4
    config = OverlayConfig(name="test", rows=8, cols=8, lanes=lanes, max_row=32)
    dut = RowWords(config=config, padded=padded)

    async def testbench(ctx: Any) -> None:
        for row in range(6):
            valid = min(first + row, limit) + 1
            ctx.set(dut.row, span(valid - 1, limit, lanes))
            covered = limit + 1 if padded else valid
            for start in range(0, covered, lanes):
                mask = sum(1 << lane for lane in range(lanes) if start + lane < valid)
                assert ctx.get(dut.valid) == mask
                assert ctx.get(dut.first) == (start == 0)
                assert ctx.get(dut.beyond) == (mask == 0)
                assert ctx.get(dut.final) == (start + lanes >= covered)
                await ctx.tick()  # a word that is not taken stays
                ctx.set(dut.step, 1)
                await ctx.tick()
                ctx.set(dut.step, 0)

    simulate(dut, testbench)


def test_row_addresses_name_each_row() -> None:
    dut = RowAddresses(OverlayConfig(name="test", rows=8, cols=8))

    async def testbench(ctx: Any) -> None:
        assert ctx.get(dut.done)
        ctx.set(dut.base, 0x1000)
        ctx.set(dut.stride, 0x18)
        ctx.set(dut.rows, 5)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        for row in range(5):
            assert not ctx.get(dut.done)
            assert ctx.get(dut.addr) == 0x1000 + 0x18 * row
            await ctx.tick()  # a row that is not taken stays
            ctx.set(dut.step, 1)
            await ctx.tick()
            ctx.set(dut.step, 0)
        assert ctx.get(dut.done)

    simulate(dut, testbench)


@pytest.mark.parametrize("pause", PAUSES)
@pytest.mark.parametrize("lanes", [2, 8])
def test_maximum_stage_finds_the_largest_valid_score(lanes: int, pause: float) -> None:
    config = OverlayConfig(name="test", rows=8, cols=8, lanes=lanes, max_row=32)
    dut = MaximumStage(config)
    rng = np.random.default_rng(lanes)
    lengths = [min(3 + row, 20) for row in range(25)] + [0, 1, 0, 0, 7]
    low, high = numerics.INT32_MIN, numerics.INT32_MAX
    scores = [rng.integers(low, high, 32, endpoint=True).tolist() for _ in lengths]
    scores[0][:3] = [low, low, low]
    found: list[int] = []

    async def producer(ctx: Any) -> None:
        for row, length in zip(scores, lengths, strict=True):
            for start in range(0, length, lanes):
                await offer(ctx, dut.i, row[start : start + lanes], rng, pause / 2)

    async def rows(ctx: Any) -> None:
        for length in lengths:
            ends = span(max(length - 1, 0), max(lengths) - 1, lanes)
            row = {"span": ends, "empty": int(length == 0)}
            await offer(ctx, dut.row, row, rng, pause / 2)

    async def room(ctx: Any) -> None:
        gate = np.random.default_rng(3)
        while len(found) < len(lengths):
            ctx.set(dut.room, int(gate.random() >= pause))
            await ctx.tick()

    async def monitor(ctx: Any) -> None:
        while len(found) < len(lengths):
            _, _, valid, maximum = await ctx.tick().sample(dut.valid, dut.maximum)
            if valid:
                found.append(maximum)

    simulate(dut, producer, rows, room, monitor)
    assert found == [max([low, *row[:length]]) for row, length in zip(scores, lengths, strict=True)]


def test_rows_that_wait_are_requested_where_they_are() -> None:
    """Rows of a job may have begun before it: then requests come as fast as addresses do."""
    config = OverlayConfig(name="test", rows=8, cols=8)
    dut = RowWriter(config)
    job = {"addr": 0xFFF0, "stride": 8, "rows": 6, "nbytes": 8, "runs": 1, "status": 0}
    found: list[int] = []

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.row_begin, 1)
        await ctx.tick().repeat(job["rows"])
        ctx.set(dut.row_begin, 0)
        ctx.set(dut.job.payload, job)
        ctx.set(dut.job.valid, 1)
        ctx.set(dut.write.request.ready, 1)
        await ctx.tick()
        ctx.set(dut.job.valid, 0)
        for _ in range(60):
            *_, valid, request = await ctx.tick().sample(
                dut.write.request.valid, dut.write.request.payload
            )
            if valid:
                found.append(request.addr)

    simulate(dut, testbench)
    assert found == [job["addr"] + row * job["stride"] for row in range(job["rows"])]
