# amaranth: UnusedElaboratable=no
"""The overlay on an ECP5: bytes over the serial line, between clocks, to registers and memory."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[hw]'")

from amaranth.hdl import ClockDomain, Elaboratable, Module
from amaranth.sim import Simulator
from ciuic_host.rings import Rings
from ciuic_hw.axi.bus import BURST_INCR
from ciuic_hw.ecp5.crossing import Crossing
from ciuic_hw.ecp5.memory import DECERR, OnChipMemory
from ciuic_hw.ecp5.system import CRYSTAL_HZ, Ecp5Top
from ciuic_hw.ecp5.uart import UartReceiver, UartTransmitter
from ciuic_sim.watched import WatchedOverlay

from ciuic import reference
from ciuic.abi import DESCRIPTOR, Format, Opcode, OverlayConfig, registers, serial
from ciuic.reference import pack_weights

from .channels import Channel, simulate

pytestmark = pytest.mark.rtl

SMALL = OverlayConfig(
    name="small", rows=4, cols=4, activation_words=32, accumulator_rows=16, max_row=64
)  # Amaranth's simulator is slow
BUS = 8
PAUSES = [0.0, 0.3, 0.8]


@pytest.fixture
def rng() -> random.Random:
    seed = random.randrange(1 << 32)
    print("seed", seed)
    return random.Random(seed)


# --- the line -------------------------------------------------------------------------------------


class Loop(Elaboratable):
    """A transmitter and a receiver on one line."""

    def __init__(self, divisor: int) -> None:
        self.transmitter = UartTransmitter(divisor)
        self.receiver = UartReceiver(divisor)

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.submodules.transmitter = self.transmitter
        m.submodules.receiver = self.receiver
        m.d.comb += self.receiver.rx.eq(self.transmitter.tx)
        return m


@pytest.mark.parametrize("divisor", [4, 7, 25])
def test_bytes_come_over_the_line(divisor: int, rng: random.Random) -> None:
    sent = [0, 255, *rng.randbytes(20)]
    dut = Loop(divisor)
    found: list[int] = []

    async def send(ctx: Any) -> None:
        channel = Channel(dut.transmitter, "i_", rng, 0)
        stream = dut.transmitter.i
        for byte in sent:
            await channel.rest(ctx)
            ctx.set(stream.payload, byte)
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)
            for _ in range(rng.choice([0, 0, 3, 40])):
                await ctx.tick()

    async def receive(ctx: Any) -> None:
        while len(found) < len(sent):
            _, _, valid, byte = await ctx.tick().sample(
                dut.receiver.o.valid, dut.receiver.o.payload
            )
            if valid:
                found.append(byte)

    simulate(dut, send, receive, deadline=len(sent) * (10 * divisor + 60))
    assert found == sent


def test_what_is_no_frame_is_dropped(rng: random.Random) -> None:
    divisor = 8
    dut = UartReceiver(divisor)
    found: list[int] = []

    async def drive(ctx: Any) -> None:
        async def hold(level: int, cycles: int) -> None:
            ctx.set(dut.rx, level)
            for _ in range(cycles):
                await ctx.tick()

        async def frame(byte: int, stop: int) -> None:
            for level in (0, *(byte >> bit & 1 for bit in range(8)), stop):
                await hold(level, divisor)
            await hold(1, 2 * divisor)

        await hold(1, 20)
        await hold(0, 1)  # shorter than half a bit
        await hold(1, 12 * divisor)
        await frame(0x55, 0)  # no stop bit
        await hold(1, 12 * divisor)
        await frame(0xA7, 1)

    async def receive(ctx: Any) -> None:
        while True:
            _, _, valid, byte = await ctx.tick().sample(dut.o.valid, dut.o.payload)
            if valid:
                found.append(byte)

    simulate(dut, drive, background=(receive,), deadline=2000)
    assert found == [0xA7]


class Clocked(Elaboratable):
    def __init__(self) -> None:
        self.crossing = Crossing(from_domain="one", to_domain="two")

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.domains += [ClockDomain("one"), ClockDomain("two")]
        m.submodules.crossing = self.crossing
        return m


@pytest.mark.parametrize(("one", "two"), [(1.0, 1.0), (1.0, 7.3), (5.1, 1.0)])
def test_bytes_cross_between_clocks(one: float, two: float, rng: random.Random) -> None:
    sent = list(rng.randbytes(100))
    design = Clocked()
    crossing = design.crossing
    found: list[int] = []
    simulator = Simulator(design)
    simulator.add_clock(one * 1e-6, domain="one")
    simulator.add_clock(two * 1e-6, domain="two", phase=0.3e-6)

    async def give(ctx: Any) -> None:
        for byte in sent:
            while rng.random() < 0.3:
                await ctx.tick("one")
            ctx.set(crossing.i.payload, byte)
            ctx.set(crossing.i.valid, 1)
            await ctx.tick("one").until(crossing.i.ready)
            ctx.set(crossing.i.valid, 0)

    async def take(ctx: Any) -> None:
        while len(found) < len(sent):
            ctx.set(crossing.o.ready, rng.random() < 0.5)
            _, _, valid, ready, byte = await ctx.tick("two").sample(
                crossing.o.valid, crossing.o.ready, crossing.o.payload
            )
            if valid and ready:
                found.append(byte)

    simulator.add_testbench(give)
    simulator.add_testbench(take)
    simulator.run_until(0.02)
    assert found == sent


# --- memory ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("pause", PAUSES)
def test_memory_keeps_what_managers_write(pause: float, rng: random.Random) -> None:
    """Each manager writes and reads a half of the memory, both at a time."""
    nbytes, managers = 1 << 10, 2
    dut = OnChipMemory(nbytes=nbytes, managers=managers, bus_bytes=BUS, address_bits=32)

    def manager(number: int) -> Any:
        local = random.Random(rng.random())
        half = nbytes // managers
        expected = bytearray(half)
        channels = {
            name: Channel(getattr(dut, f"port_{number}"), name, local, pause)
            for name in ("ar", "r", "aw", "w", "b")
        }

        async def burst(ctx: Any) -> None:
            words = half // BUS
            beats = local.choice([1, 1, 2, local.randint(1, words)])
            start = local.randrange(words - beats + 1)
            outside = local.random() < 0.2
            addr = number * half + start * BUS + outside * nbytes * local.randint(1, 1 << 16)
            address = {"addr": addr, "len": beats - 1, "size": 3, "burst": BURST_INCR}
            if local.random() < 0.5:
                await channels["aw"].offer(ctx, **address)
                for beat in range(beats):
                    data, strobes = local.getrandbits(64), local.choice([255, local.getrandbits(8)])
                    last = beat == beats - 1
                    await channels["w"].offer(ctx, data=data, strb=strobes, last=last)
                    for byte in range(BUS):
                        if strobes >> byte & 1 and not outside:
                            expected[(start + beat) * BUS + byte] = data >> 8 * byte & 255
                assert await channels["b"].take(ctx, "resp") == {"resp": outside * DECERR}
                return
            await channels["ar"].offer(ctx, **address)
            for beat in range(beats):
                here = (start + beat) * BUS
                assert await channels["r"].take(ctx, "data", "resp", "last") == {
                    "data": 0 if outside else int.from_bytes(expected[here : here + BUS], "little"),
                    "resp": outside * DECERR,
                    "last": beat == beats - 1,
                }

        async def testbench(ctx: Any) -> None:
            for _ in range(30):
                await burst(ctx)

        return testbench

    simulate(dut, *(manager(number) for number in range(managers)), deadline=60_000)


@pytest.mark.parametrize("nbytes", [4, 1000])
def test_memory_is_a_power_of_two(nbytes: int) -> None:
    with pytest.raises(
        ValueError, match=f"^nbytes must be a power of two, 8 or more, not {nbytes}"
    ):
        OnChipMemory(nbytes=nbytes, managers=1, bus_bytes=BUS, address_bits=32)


# --- the whole ------------------------------------------------------------------------------------


def check_handshake(valid: list[int], ready: list[int], addr: list[int]) -> set[int]:
    """Return what was taken; what is offered must stay until then."""
    assert len(valid) == len(ready) == len(addr) > 0
    cycles = list(zip(valid, ready, addr, strict=True))
    for (offered, taken, what), (still, _, same) in pairwise(cycles):
        assert not offered or taken or (still and same == what)
    return {what for offered, taken, what in cycles if offered and taken}


def test_the_overlay_computes_over_the_serial_line(rng: random.Random) -> None:
    transport = WatchedOverlay(SMALL, pause=0.2, seed=rng.getrandbits(32))
    transport.send(b"?" + bytes(serial.REQUEST_BYTES))
    assert transport.read(registers.MAGIC.offset) == registers.MAGIC_VALUE
    behind = serial.MEMORY_BYTES
    assert transport.request(serial.READ, behind) == (DECERR, 0)
    assert transport.request(serial.WRITE, behind, 1) == (DECERR, 0)

    numbers = np.random.default_rng(rng.getrandbits(32))
    m, k, n = 3, 16, 8
    activations = numbers.integers(-128, 128, (m, k), dtype=np.int8)
    weights = numbers.integers(-128, 128, (k, n), dtype=np.int8)
    packed = pack_weights(weights, SMALL).reshape(-1)
    a, w, o = (transport.allocate(nbytes) for nbytes in (m * k, packed.nbytes, m * n * 4))
    a.array[:] = activations.reshape(-1).view(np.uint8)
    w.array[:] = packed
    for buffer in (a, w):
        transport.flush(buffer)
    rings = Rings(transport, ring_log2=1)
    product = DESCRIPTOR.pack(
        opcode=Opcode.GEMM,
        out_format=Format.INT32,
        m=m,
        k=k,
        n=n,
        a_addr=a.device_address,
        a_stride=k,
        w_addr=w.device_address,
        o_addr=o.device_address,
        o_stride=4 * n,
    )
    port = transport.memory
    transport.watch(valid=port.arvalid, ready=port.arready, addr=port.araddr)
    rings.wait(rings.submit([product], 60), 60)
    requests = check_handshake(**transport.waves)
    assert {a.device_address, w.device_address} <= requests
    transport.invalidate(o)
    np.testing.assert_array_equal(
        o.array.view("<i4").reshape(m, n), reference.gemm(activations, weights)
    )


def test_pins_lead_to_registers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole design but for its PLL, at a bit of 4 cycles of the crystal."""
    divisor = 4
    monkeypatch.setattr(Ecp5Top, "_clocks", lambda self, m: None)
    monkeypatch.setattr(serial, "BAUD", CRYSTAL_HZ // divisor)
    dut = Ecp5Top(SMALL)
    simulator = Simulator(dut)
    simulator.add_clock(1 / CRYSTAL_HZ, domain="line")
    simulator.add_clock(0.7 / CRYSTAL_HZ, domain="sync")
    address = serial.REGISTERS_BASE + registers.MAGIC.offset
    answer: list[int] = []

    async def hold(ctx: Any, level: int) -> None:
        ctx.set(dut.rx, level)
        await ctx.tick("line").repeat(divisor)

    async def host(ctx: Any) -> None:
        await hold(ctx, 1)
        for byte in bytes([serial.READ]) + address.to_bytes(4, "little"):
            for level in (0, *(byte >> bit & 1 for bit in range(8)), 1):
                await hold(ctx, level)

    async def listen(ctx: Any) -> None:
        for _ in range(1 + serial.WORD_BYTES):
            await ctx.tick("line").until(~dut.tx)
            await ctx.tick("line").repeat(divisor // 2)
            byte = 0
            for bit in range(8):
                await ctx.tick("line").repeat(divisor)
                byte |= ctx.get(dut.tx) << bit
            await ctx.tick("line").repeat(divisor)
            assert ctx.get(dut.tx), "no stop bit"
            answer.append(byte)

    simulator.add_testbench(host)
    simulator.add_testbench(listen)
    simulator.run_until(1000 / CRYSTAL_HZ)
    assert bytes(answer) == b"\0" + registers.MAGIC_VALUE.to_bytes(4, "little")
