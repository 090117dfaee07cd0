# amaranth: UnusedElaboratable=no
"""What joins the overlay to a Zynq-7000: bursts in pieces, registers over AXI3, the interrupt."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[hw]'")

from amaranth.sim import Simulator
from ciuic_hw.axi.bus import BOUNDARY_BYTES, BURST_INCR
from ciuic_hw.zynq.axi3 import BURST_FIXED, BURST_WRAP, DECERR, MAX_BURST_BEATS
from ciuic_hw.zynq.control import ControlBridge
from ciuic_hw.zynq.interrupts import InterruptController
from ciuic_hw.zynq.memory import Axi3Bridge

from ciuic.abi import Region

pytestmark = pytest.mark.rtl

BUS = 8
SLVERR = 2
PAUSES = [0.0, 0.3, 0.8]


@dataclass(frozen=True)
class Burst:
    """A burst of full beats; ``broken`` beats are refused."""

    addr: int
    beats: int
    broken: frozenset[int]

    @property
    def error(self) -> int:
        """The worst response of its beats."""
        return SLVERR if self.broken else 0


def random_bursts(rng: random.Random, count: int) -> list[Burst]:
    """Return bursts within 4 KiB, with lengths around those of pieces more often than others."""
    found = []
    for _ in range(count):
        beats = rng.choice([1, 2, 15, 16, 17, 31, 32, 33, 255, 256, rng.randint(1, 256)])
        page = rng.randrange(1 << 8) * BOUNDARY_BYTES
        start = rng.randrange(BOUNDARY_BYTES // BUS - beats + 1)
        broken = {rng.randrange(beats)} if rng.random() < 0.2 else set()
        found.append(Burst(page + start * BUS, beats, frozenset(broken)))
    return found


def broken_addresses(bursts: list[Burst]) -> set[int]:
    return {burst.addr + beat * BUS for burst in bursts for beat in burst.broken}


def word(addr: int) -> int:
    return random.Random(addr).getrandbits(8 * BUS)


class Channel:
    """One side of an AXI channel, with pauses; a patient one is ready only for what is offered."""

    def __init__(
        self, axi: Any, name: str, rng: random.Random, pause: float, *, patient: bool = False
    ) -> None:
        self.axi, self.name, self.rng, self.pause, self.patient = axi, name, rng, pause, patient

    def signal(self, name: str) -> Any:
        return getattr(self.axi, self.name + name)

    async def rest(self, ctx: Any) -> None:
        while self.rng.random() < self.pause:
            await ctx.tick()

    async def offer(self, ctx: Any, **values: int) -> None:
        """Drive a transfer until it is taken."""
        await self.rest(ctx)
        for name, value in values.items():
            ctx.set(self.signal(name), value)
        ctx.set(self.signal("valid"), 1)
        await ctx.tick().until(self.signal("ready"))
        ctx.set(self.signal("valid"), 0)

    async def take(self, ctx: Any, *names: str) -> dict[str, int]:
        """Take a transfer; return what it carries. What is offered must stay."""
        offered = None
        while True:
            ready = self.rng.random() >= self.pause
            if self.patient:
                ready = ready and bool(ctx.get(self.signal("valid")))
            ctx.set(self.signal("ready"), ready)
            signals = [self.signal(name) for name in names]
            _, _, valid, ready, *values = await ctx.tick().sample(
                self.signal("valid"), self.signal("ready"), *signals
            )
            if offered is not None:
                assert valid, f"{self.name} took back what it offered"
                assert values == offered, f"{self.name} changed what it offered"
            if valid and ready:
                ctx.set(self.signal("ready"), 0)
                return dict(zip(names, values, strict=True))
            offered = values if valid else None


ADDRESS = ("addr", "id", "len", "size", "burst", "lock")


class Memory:
    """The memory behind an AXI3 port: checks the rules, answers in order, stalls at random."""

    def __init__(self, axi: Any, rng: random.Random, pause: float, broken: set[int]) -> None:
        self.channels = {
            name: Channel(axi, name, rng, pause) for name in ("ar", "r", "aw", "w", "b")
        }
        self.broken = broken
        self.bytes: dict[int, int] = {}
        self.reads: deque[tuple[int, int]] = deque()
        self.writes: deque[tuple[int, int]] = deque()
        self.beats: deque[dict[str, int]] = deque()
        self.pieces = 0

    async def _addresses(self, ctx: Any, name: str, bursts: deque[tuple[int, int]]) -> None:
        while True:
            found = await self.channels[name].take(ctx, *ADDRESS)
            addr, beats = found.pop("addr"), found.pop("len") + 1
            assert found == {"id": 0, "size": 3, "burst": BURST_INCR, "lock": 0}
            assert beats <= MAX_BURST_BEATS
            assert addr // BOUNDARY_BYTES == (addr + beats * BUS - 1) // BOUNDARY_BYTES
            self.pieces += 1
            bursts.append((addr, beats))

    async def read_addresses(self, ctx: Any) -> None:
        await self._addresses(ctx, "ar", self.reads)

    async def write_addresses(self, ctx: Any) -> None:
        await self._addresses(ctx, "aw", self.writes)

    async def answer_reads(self, ctx: Any) -> None:
        while True:
            while not self.reads:
                await ctx.tick()
            addr, beats = self.reads.popleft()
            for beat in range(beats):
                here = addr + beat * BUS
                response = SLVERR if here in self.broken else 0
                last = beat == beats - 1
                await self.channels["r"].offer(ctx, data=word(here), resp=response, last=last)

    async def take_beats(self, ctx: Any) -> None:
        while True:
            self.beats.append(await self.channels["w"].take(ctx, "data", "strb", "last", "id"))

    async def answer_writes(self, ctx: Any) -> None:
        while True:
            while not self.writes:
                await ctx.tick()
            addr, beats = self.writes.popleft()
            response = 0
            for beat in range(beats):
                while not self.beats:
                    await ctx.tick()
                found = self.beats.popleft()
                assert found["id"] == 0
                assert found["last"] == (beat == beats - 1)
                here = addr + beat * BUS
                if here in self.broken:
                    response = SLVERR
                    continue
                for byte in range(BUS):
                    if found["strb"] >> byte & 1:
                        self.bytes[here + byte] = found["data"] >> 8 * byte & 0xFF
            await self.channels["b"].offer(ctx, resp=response)


def simulate(dut: Any, *testbenches: Any, background: Any = (), deadline: int) -> int:
    """Run testbenches to their ends; fail after a number of cycles; return the cycles run."""
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for testbench in testbenches:
        simulator.add_testbench(testbench)
    for testbench in background:
        simulator.add_testbench(testbench, background=True)
    cycles = 0

    async def count(ctx: Any) -> None:
        nonlocal cycles
        while True:
            await ctx.tick()
            cycles += 1
            assert cycles < deadline, f"not finished within {deadline} cycles"

    simulator.add_testbench(count, background=True)
    simulator.run()
    return cycles


@pytest.mark.parametrize("pause", PAUSES)
def test_reads_arrive_beat_for_beat(pause: float) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    bursts = random_bursts(rng, 20)
    broken = broken_addresses(bursts)
    dut = Axi3Bridge(bus_bytes=BUS, address_bits=32)
    memory = Memory(dut.axi3, random.Random(seed + 1), pause, broken)

    async def ask(ctx: Any) -> None:
        channel = Channel(dut.axi4, "ar", random.Random(seed + 2), pause)
        for burst in bursts:
            await channel.offer(ctx, addr=burst.addr, len=burst.beats - 1, size=3, burst=BURST_INCR)

    async def receive(ctx: Any) -> None:
        channel = Channel(dut.axi4, "r", random.Random(seed + 3), pause)
        for burst in bursts:
            for beat in range(burst.beats):
                found = await channel.take(ctx, "data", "resp", "last")
                here = burst.addr + beat * BUS
                assert found == {
                    "data": word(here),
                    "resp": SLVERR if here in broken else 0,
                    "last": beat == burst.beats - 1,
                }, (burst, beat)

    beats = sum(burst.beats for burst in bursts)
    cycles = simulate(
        dut,
        ask,
        receive,
        background=(memory.read_addresses, memory.answer_reads),
        deadline=100 * beats,
    )
    assert memory.pieces == sum(-(-burst.beats // MAX_BURST_BEATS) for burst in bursts)
    assert not memory.reads
    if pause == 0:  # the bridge itself costs nothing between pieces
        assert cycles < 1.05 * beats + 20


@pytest.mark.parametrize("pause", PAUSES)
def test_writes_arrive_beat_for_beat_and_are_answered_once(pause: float) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    bursts = random_bursts(rng, 20)
    dut = Axi3Bridge(bus_bytes=BUS, address_bits=32)
    memory = Memory(dut.axi3, random.Random(seed + 1), pause, broken_addresses(bursts))
    expected: dict[int, int] = {}
    data: list[tuple[int, int, bool]] = []
    for burst in bursts:
        for beat in range(burst.beats):
            here, strobes = burst.addr + beat * BUS, rng.choice([0, 0xFF, rng.getrandbits(BUS)])
            value = rng.getrandbits(8 * BUS)
            data.append((value, strobes, beat == burst.beats - 1))
            for byte in range(BUS):
                if strobes >> byte & 1 and here not in memory.broken:
                    expected[here + byte] = value >> 8 * byte & 0xFF

    async def ask(ctx: Any) -> None:
        channel = Channel(dut.axi4, "aw", random.Random(seed + 2), pause)
        for burst in bursts:
            await channel.offer(ctx, addr=burst.addr, len=burst.beats - 1, size=3, burst=BURST_INCR)

    async def send(ctx: Any) -> None:
        channel = Channel(dut.axi4, "w", random.Random(seed + 3), pause)
        for value, strobes, last in data:
            await channel.offer(ctx, data=value, strb=strobes, last=last)

    async def hear(ctx: Any) -> None:
        channel = Channel(dut.axi4, "b", random.Random(seed + 4), pause, patient=True)
        for burst in bursts:
            touched = {burst.addr + beat * BUS for beat in range(burst.beats)} & memory.broken
            assert await channel.take(ctx, "resp") == {"resp": SLVERR if touched else 0}, burst

    simulate(
        dut,
        ask,
        send,
        hear,
        background=(memory.write_addresses, memory.take_beats, memory.answer_writes),
        deadline=100 * len(data),
    )
    assert memory.bytes == expected
    assert not memory.writes
    assert not memory.beats


BLOCKS = {"one": Region(0x4000_0000, 0x1000), "two": Region(0x4180_0000, 0x1_0000)}


class Block:
    """Registers behind AXI4-Lite; the last 16 bytes are refused."""

    def __init__(self, axi: Any, size: int, rng: random.Random, pause: float) -> None:
        self.channels = {
            name: Channel(axi, name, rng, pause) for name in ("ar", "r", "aw", "w", "b")
        }
        self.size = size
        self.words: dict[int, int] = {}

    async def serve_reads(self, ctx: Any) -> None:
        while True:
            addr = (await self.channels["ar"].take(ctx, "addr"))["addr"]
            response = SLVERR if addr >= self.size - 16 else 0
            await self.channels["r"].offer(ctx, data=self.words.get(addr & ~3, 0), resp=response)

    async def serve_writes(self, ctx: Any) -> None:
        while True:
            addr = (await self.channels["aw"].take(ctx, "addr"))["addr"]
            found = await self.channels["w"].take(ctx, "data", "strb")
            if addr < self.size - 16:
                old = self.words.get(addr & ~3, 0)
                for byte in range(4):
                    if found["strb"] >> byte & 1:
                        old = old & ~(0xFF << 8 * byte) | found["data"] & 0xFF << 8 * byte
                self.words[addr & ~3] = old
            await self.channels["b"].offer(ctx, resp=SLVERR if addr >= self.size - 16 else 0)


@dataclass(frozen=True)
class Access:
    """A burst of the processors."""

    write: bool
    addr: int
    size: int
    kind: int
    beats: int
    identifier: int

    def addresses(self) -> list[int]:
        """Where its beats are: Arm IHI 0022, A3.4.1."""
        step, total = 1 << self.size, self.beats << self.size
        if self.kind == BURST_FIXED:
            return [self.addr] * self.beats
        if self.kind == BURST_WRAP:
            start = self.addr // total * total
            return [start + (self.addr - start + i * step) % total for i in range(self.beats)]
        return [self.addr + i * step for i in range(self.beats)]


def random_access(rng: random.Random) -> Access:
    region = rng.choice([*BLOCKS.values(), Region(0x4000_1000, 0x1000)])
    size = rng.choice([0, 1, 2, 2, 2])
    kind = rng.choice([BURST_FIXED, BURST_INCR, BURST_INCR, BURST_INCR, BURST_WRAP])
    beats = rng.choice([2, 4, 8, 16]) if kind == BURST_WRAP else rng.choice([1, 1, 2, 3, 16])
    span = beats << size
    offset = rng.choice([0, region.span - span, rng.randrange(region.span - span)]) >> size << size
    return Access(rng.random() < 0.5, region.base + offset, size, kind, beats, rng.getrandbits(12))


@pytest.mark.parametrize("pause", PAUSES)
def test_processors_reach_registers_with_any_burst(pause: float) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    # Refused at first, then not: the error must not be forgotten.
    accesses = [Access(True, BLOCKS["one"].last - 15, 2, BURST_WRAP, 16, 5)]
    accesses += [random_access(rng) for _ in range(60)]
    dut = ControlBridge(BLOCKS)
    blocks = {
        name: Block(getattr(dut, name), region.span, random.Random(seed + 1), pause)
        for name, region in BLOCKS.items()
    }
    model: dict[int, int] = {}

    def response(addr: int) -> int:
        for region in BLOCKS.values():
            if region.base <= addr <= region.last:
                return SLVERR if addr - region.base >= region.span - 16 else 0
        return DECERR

    async def processors(ctx: Any) -> None:
        port = {
            name: Channel(dut.axi3, name, random.Random(seed + 2), pause)
            for name in ("ar", "r", "aw", "w", "b")
        }
        for access in accesses:
            address = {
                "addr": access.addr,
                "len": access.beats - 1,
                "size": access.size,
                "burst": access.kind,
                "id": access.identifier,
            }
            if access.write:
                await port["aw"].offer(ctx, **address)
                worst = 0
                for beat, addr in enumerate(access.addresses()):
                    value = rng.getrandbits(32)
                    strobes = ((1 << (1 << access.size)) - 1) << (addr & 3)
                    last = beat == access.beats - 1
                    await port["w"].offer(ctx, data=value, strb=strobes, last=last)
                    worst |= response(addr)
                    if response(addr) == 0:
                        for byte in range(4):
                            if strobes >> byte & 1:
                                model[(addr & ~3) + byte] = value >> 8 * byte & 0xFF
                assert await port["b"].take(ctx, "resp", "id") == {
                    "resp": worst,
                    "id": access.identifier,
                }, access
                continue
            await port["ar"].offer(ctx, **address)
            for beat, addr in enumerate(access.addresses()):
                found = await port["r"].take(ctx, "data", "resp", "last", "id")
                base = addr & ~3
                value = sum(model.get(base + byte, 0) << 8 * byte for byte in range(4))
                assert found == {
                    "data": 0 if response(addr) == DECERR else value,
                    "resp": response(addr),
                    "last": beat == access.beats - 1,
                    "id": access.identifier,
                }, (access, beat)

    background = [
        one for block in blocks.values() for one in (block.serve_reads, block.serve_writes)
    ]
    simulate(dut, processors, background=background, deadline=200_000)


@pytest.mark.parametrize("base", [0x4000_0800, 0x4000_0000 + 3])
def test_registers_must_be_aligned(base: int) -> None:
    with pytest.raises(
        ValueError, match=r"^one must be a power of two bytes, aligned, not 0x1000 at"
    ):
        ControlBridge({"one": Region(base, 0x1000)})


def test_an_interrupt_stays_until_it_is_acknowledged() -> None:
    dut = InterruptController(address_bits=16)
    status, pending, enable, acknowledge = 0x00, 0x04, 0x08, 0x0C
    set_enable, clear_enable, vector, master = 0x10, 0x14, 0x18, 0x1C

    async def driver(ctx: Any) -> None:
        port = {
            name: Channel(dut.bus, name, random.Random(0), 0)
            for name in ("ar", "r", "aw", "w", "b")
        }

        async def read(addr: int) -> int:
            await port["ar"].offer(ctx, addr=addr)
            return (await port["r"].take(ctx, "data"))["data"]

        async def write(addr: int, value: int) -> None:
            ctx.set(dut.bus.awaddr, addr)
            ctx.set(dut.bus.awvalid, 1)
            ctx.set(dut.bus.wdata, value)
            ctx.set(dut.bus.wstrb, 0xF)
            ctx.set(dut.bus.wvalid, 1)
            await ctx.tick().until(dut.bus.awready & dut.bus.wready)
            ctx.set(dut.bus.awvalid, 0)
            ctx.set(dut.bus.wvalid, 0)
            assert await port["b"].take(ctx, "resp") == {"resp": 0}

        ctx.set(dut.interrupt, 1)
        assert await read(status) == 0  # not before the hardware is enabled
        await write(master, 3)
        assert await read(master) == 3
        assert await read(status) == 1
        assert (await read(pending), await read(vector)) == (0, 0xFFFF_FFFF)
        assert not ctx.get(dut.irq)
        await write(set_enable, 1)
        assert ctx.get(dut.irq)
        assert (await read(enable), await read(pending), await read(vector)) == (1, 1, 0)
        await write(acknowledge, 1)  # the level is still there
        assert ctx.get(dut.irq)
        ctx.set(dut.interrupt, 0)
        await ctx.tick()
        assert ctx.get(dut.irq)
        await write(acknowledge, 1)
        assert not ctx.get(dut.irq)
        await write(status, 1)  # hardware is enabled, so software cannot
        assert await read(status) == 0
        ctx.set(dut.interrupt, 1)
        await ctx.tick()
        ctx.set(dut.interrupt, 0)
        await write(clear_enable, 1)
        assert (await read(status), await read(pending)) == (1, 0)
        assert not ctx.get(dut.irq)
        await write(master, 0)
        await write(enable, 1)
        assert not ctx.get(dut.irq)
        assert await read(master) == 2  # enabled once and for all
        assert await read(0x20) == 0

    simulate(dut, driver, deadline=1000)
