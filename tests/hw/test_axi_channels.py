"""The read and write channels behind copy engines, in Amaranth's simulator: stalls and errors."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Cat, Module
from amaranth.lib.wiring import Component, Out, connect, flipped
from amaranth.sim import Simulator
from ciuic_hw.axi.bus import Axi4
from ciuic_hw.axi.ports import EngineSignature
from ciuic_hw.axi.read import ReadChannel, connect_axi_read
from ciuic_hw.axi.write import WriteChannel, connect_axi_write
from ciuic_hw.copy import CopyEngine

from ciuic.abi import DESCRIPTOR, Opcode, OverlayConfig, Status

pytestmark = pytest.mark.rtl

CONFIG = OverlayConfig(name="test", rows=8, cols=8)
BUS = CONFIG.bus_bytes
ENGINES = ("one", "two", "three")
MEMORY_BYTES = 0x10000
SLVERR = 2
DEADLINE_CYCLES = 20_000
LENGTHS = (1, 9, 64, 700)
SOURCE = 0xE20  # of the first engine; the longest copies go beyond 4 KiB


class Copies(Component):
    """Copy engines that share a read and a write channel."""

    def __init__(self) -> None:
        engine = dict(EngineSignature(CONFIG).members)
        super().__init__(
            {
                "memory": Out(Axi4(bus_bytes=BUS, address_bits=CONFIG.address_bits)),
                **{f"{name}_descriptor": engine["descriptor"] for name in ENGINES},
                **{f"{name}_done": engine["done"] for name in ENGINES},
                **{f"{name}_acknowledged": Out(1) for name in ENGINES},
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.reader = reader = ReadChannel(CONFIG, dict.fromkeys(ENGINES, 16))
        m.submodules.writer = writer = WriteChannel(CONFIG, ENGINES)
        connect_axi_read(m, reader, self.memory, CONFIG)
        connect_axi_write(m, writer, self.memory, CONFIG)
        for name in ENGINES:
            m.submodules[name] = engine = CopyEngine(CONFIG)
            connect(m, engine.read, getattr(reader, name))
            connect(m, engine.write, getattr(writer, name))
            m.d.comb += getattr(self, f"{name}_acknowledged").eq(engine.write.acknowledged)
            connect(m, flipped(getattr(self, f"{name}_descriptor")), engine.descriptor)
            connect(m, engine.done, flipped(getattr(self, f"{name}_done")))
        return m


class Memory:
    """A memory behind AXI that pauses at random and refuses one address."""

    def __init__(self, seed: int, refused: int | None) -> None:
        self.bytes = np.random.default_rng(seed).integers(0, 256, MEMORY_BYTES, np.uint8)
        self.refused = refused

    def _answer(self, address: int) -> int:
        return SLVERR if address == self.refused else 0

    def reads(self, axi: Any, pause: float) -> Any:
        async def serve(ctx: Any) -> None:
            rng = np.random.default_rng(1)
            beats: deque[tuple[int, int]] = deque()  # address, last
            shown = False
            while True:
                ctx.set(axi.arready, int(rng.random() >= pause))
                shown = bool(beats) and (shown or rng.random() >= pause)
                ctx.set(axi.rvalid, shown)
                if shown:
                    address, last = beats[0]
                    word = self.bytes[address : address + BUS].tobytes()
                    ctx.set(axi.rdata, int.from_bytes(word, "little"))
                    ctx.set(axi.rlast, last)
                    ctx.set(axi.rresp, self._answer(address))
                ready = ctx.get(axi.arready)
                *_, asked, address, length, taken = await ctx.tick().sample(
                    axi.arvalid, axi.araddr, axi.arlen, axi.rready
                )
                if shown and taken:
                    beats.popleft()
                    shown = False
                if asked and ready:
                    assert address // 4096 == (address + length * BUS) // 4096
                    beats.extend((address + i * BUS, int(i == length)) for i in range(length + 1))

        return serve

    def writes(self, axi: Any, pause: float) -> Any:
        async def serve(ctx: Any) -> None:
            rng = np.random.default_rng(2)
            bursts: deque[tuple[int, int]] = deque()
            position, worst = 0, 0
            answers: deque[int] = deque()
            while True:
                address_ready = int(rng.random() >= pause)
                data_ready = int(bool(bursts) and rng.random() >= pause)
                ctx.set(axi.awready, address_ready)
                ctx.set(axi.wready, data_ready)
                ctx.set(axi.bvalid, bool(answers))
                if answers:
                    ctx.set(axi.bresp, answers[0])
                *_, asked, address, length, given, word, strobes, last = await ctx.tick().sample(
                    axi.awvalid,
                    axi.awaddr,
                    axi.awlen,
                    axi.wvalid,
                    axi.wdata,
                    axi.wstrb,
                    axi.wlast,
                )
                if answers:
                    answers.popleft()
                if given and data_ready:
                    start, beats = bursts[0]
                    at = start + position * BUS
                    worst = max(worst, self._answer(at))
                    for byte, value in enumerate(word.to_bytes(BUS, "little")):
                        if strobes >> byte & 1:
                            self.bytes[at + byte] = value
                    position += 1
                    assert last == (position == beats)
                    if last:
                        bursts.popleft()
                        answers.append(worst)
                        position, worst = 0, 0
                if asked and address_ready:
                    assert address // 4096 == (address + length * BUS) // 4096
                    bursts.append((address, length + 1))

        return serve


def run(
    pause: float, refused: int | None = None, *, engines: tuple[str, ...] = ENGINES
) -> dict[str, list[int]]:
    """Copy every length with every engine, and compare; return the status of each copy."""
    dut = Copies()
    memory = Memory(7, refused)
    before = memory.bytes.copy()
    sources = {name: SOURCE + index * 0x2000 for index, name in enumerate(ENGINES)}
    found: dict[str, list[int]] = {name: [] for name in engines}
    acknowledged = dict.fromkeys(engines, 0)

    async def count(ctx: Any) -> None:
        while True:
            strobes = [getattr(dut, f"{name}_acknowledged") for name in engines]
            *_, seen = await ctx.tick().sample(Cat(strobes))
            for index, name in enumerate(engines):
                acknowledged[name] += seen >> index & 1

    def copies(name: str) -> Any:
        async def submit(ctx: Any) -> None:
            port, done = getattr(dut, f"{name}_descriptor"), getattr(dut, f"{name}_done")
            ctx.set(done.ready, 1)
            for length in LENGTHS:
                fields = {"a_addr": sources[name], "o_addr": 0x8000 + sources[name], "n": length}
                raw = DESCRIPTOR.pack(opcode=Opcode.COPY, **fields)
                ctx.set(port.payload.as_value(), int.from_bytes(raw, "little"))
                ctx.set(port.valid, 1)
                await ctx.tick().until(port.ready)
                ctx.set(port.valid, 0)
                (answer,) = await ctx.tick().sample(done.payload).until(done.valid)
                found[name].append(answer.status)

        return submit

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(memory.reads(dut.memory, pause), background=True)
    simulator.add_testbench(memory.writes(dut.memory, pause), background=True)
    simulator.add_testbench(count, background=True)
    for name in engines:
        simulator.add_testbench(copies(name))
    for _ in range(2 * DEADLINE_CYCLES):
        if not simulator.advance():
            break
    else:
        raise AssertionError(f"{found} within {DEADLINE_CYCLES} cycles")
    # Once for a request, though the longest takes two bursts.
    assert acknowledged == dict.fromkeys(engines, len(LENGTHS))
    if refused is None:
        wanted = before.copy()
        for name in engines:
            start = sources[name]
            moved = before[start : start + max(LENGTHS)]
            wanted[0x8000 + start : 0x8000 + start + moved.size] = moved
        np.testing.assert_array_equal(memory.bytes, wanted)
    return found


@pytest.mark.parametrize("pause", [0, 0.4])
@pytest.mark.parametrize("engines", [ENGINES[:1], ENGINES])
def test_copies_beside_each_other_are_exact(engines: tuple[str, ...], pause: float) -> None:
    found = run(pause, engines=engines)
    assert found == {name: [Status.OK] * len(LENGTHS) for name in engines}


@pytest.mark.parametrize(
    ("refused", "status"),
    [
        (SOURCE + 0x2000 + 128, Status.READ_ERROR),
        (SOURCE + 0xA000 + 128, Status.WRITE_ERROR),
    ],
)
def test_an_error_is_told_to_the_engine_that_it_belongs_to(refused: int, status: Status) -> None:
    found = run(0.2, refused)
    long = [length > 128 for length in LENGTHS]
    assert found["two"] == [status if one else Status.OK for one in long]
    assert found["one"] == found["three"] == [Status.OK] * len(LENGTHS)


@pytest.mark.parametrize("given", [0, 3])
def test_a_burst_whose_data_do_not_come_is_ended_without_writing(given: int) -> None:
    """A soft reset lets the bus come to rest: what is announced has to be sent (A3.4.1)."""
    dut = WriteChannel(CONFIG, ENGINES[:1])
    port, count = dut.one, 8
    beats: list[tuple[int, int]] = []  # strobes, last

    async def memory(ctx: Any) -> None:
        ctx.set(dut.addr_ready, 1)
        ctx.set(dut.data_ready, 1)
        while True:
            *_, valid, strobes, last = await ctx.tick().sample(dut.data_valid, dut.strb, dut.last)
            if valid:
                beats.append((strobes, last))
            ctx.set(dut.resp_valid, valid & last)

    async def engine(ctx: Any) -> None:
        ctx.set(port.request.payload, {"addr": 0x100, "nbytes": count * BUS})
        ctx.set(port.request.valid, 1)
        await ctx.tick().until(port.request.ready)
        ctx.set(port.request.valid, 0)
        for _ in range(given):
            ctx.set(port.data.valid, 1)
            await ctx.tick().until(port.data.ready)
        ctx.set(port.data.valid, 0)
        await ctx.tick().repeat(30)
        assert beats == [((1 << BUS) - 1, 0)] * given
        ctx.set(dut.drain, 1)
        await ctx.tick().repeat(30)
        assert beats[given:] == [(0, 0)] * (count - given - 1) + [(0, 1)]
        assert ctx.get(dut.quiet)
        assert not ctx.get(port.busy)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(memory, background=True)
    simulator.add_testbench(engine)
    simulator.run()
