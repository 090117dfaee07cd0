# amaranth: UnusedElaboratable=no
"""The overlay on an ECP5: bytes over the serial line, between clocks, to registers and memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[hw]'")

from amaranth.hdl import ClockDomain, Elaboratable, Module
from amaranth.sim import Simulator
from ciuic_host.rings import Rings
from ciuic_host.transport import Buffer, Transport
from ciuic_hw.axi.bus import BURST_INCR
from ciuic_hw.ecp5.crossing import Crossing
from ciuic_hw.ecp5.memory import DECERR, OnChipMemory
from ciuic_hw.ecp5.system import Ecp5System
from ciuic_hw.ecp5.uart import UartReceiver, UartTransmitter

from ciuic import reference
from ciuic.abi import CONFIGS, DESCRIPTOR, Format, Opcode, registers, serial
from ciuic.reference import pack_weights

from .channels import Channel, simulate

pytestmark = pytest.mark.rtl

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


class SerialTransport(Transport):
    """The driver's way to an `Ecp5System` in the simulator: requests, byte by byte."""

    name = "ecp5"
    emulated = True
    memory_bytes = serial.MEMORY_BYTES

    def __init__(self, rng: random.Random) -> None:
        self._dut = Ecp5System(CONFIGS["tiny"])
        self._rng = rng
        self._out: deque[int] = deque()
        self._in: list[int] = []
        self._addresses: Iterator[int] = iter(range(0, self.memory_bytes, 1 << 12))
        self.simulator = Simulator(self._dut)
        self.simulator.add_clock(1e-6)
        self.simulator.add_testbench(self._send, background=True)
        self.simulator.add_testbench(self._receive, background=True)

    async def _send(self, ctx: Any) -> None:
        stream = self._dut.received
        while True:
            if not self._out or self._rng.random() < 0.1:
                await ctx.tick()
                continue
            ctx.set(stream.payload, self._out.popleft())
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    async def _receive(self, ctx: Any) -> None:
        stream = self._dut.sent
        while True:
            ctx.set(stream.ready, self._rng.random() < 0.8)
            _, _, valid, ready, byte = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload
            )
            if valid and ready:
                self._in.append(byte)

    def ask(self, kind: int, *words: int) -> tuple[int, int]:
        """Return the response to a request, and the word of an answer that has one."""
        self._out.append(kind)
        for word in words:
            self._out.extend(word.to_bytes(serial.WORD_BYTES, "little"))
        expected = 1 if kind == serial.WRITE else 1 + serial.WORD_BYTES
        for _ in range(20_000):
            if len(self._in) == expected:
                break
            self.simulator.advance()
        assert len(self._in) == expected, "no answer"
        response, *rest = self._in
        self._in.clear()
        return response, int.from_bytes(rest, "little")

    def skip(self, bytes_: bytes) -> None:
        """Send what is no request."""
        self._out.extend(bytes_)

    def _word(self, kind: int, *words: int) -> int:
        response, value = self.ask(kind, *words)
        assert response == 0
        return value

    def read(self, offset: int) -> int:
        return self._word(serial.READ, serial.REGISTERS_BASE + offset)

    def write(self, offset: int, value: int) -> None:
        self._word(serial.WRITE, serial.REGISTERS_BASE + offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        assert nbytes <= 1 << 12
        return Buffer(next(self._addresses), np.zeros(nbytes, np.uint8))

    def free(self, buffer: Buffer) -> None:
        pass

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        words = buffer.array[start:stop].view("<u4")
        for index, word in enumerate(words):
            self._word(serial.WRITE, buffer.device_address + start + 4 * index, int(word))

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        words = buffer.array[start:stop].view("<u4")
        for index in range(len(words)):
            words[index] = self._word(serial.READ, buffer.device_address + start + 4 * index)

    def wait_interrupt(self, seconds: float) -> bool:
        for _ in range(100):
            self.simulator.advance()
        return True

    def close(self) -> None:
        pass


def test_the_overlay_computes_over_the_serial_line(rng: random.Random) -> None:
    transport = SerialTransport(rng)
    transport.skip(b"?" + bytes(serial.REQUEST_BYTES))
    assert transport.read(registers.MAGIC.offset) == registers.MAGIC_VALUE
    behind = serial.MEMORY_BYTES
    assert transport.ask(serial.READ, behind) == (DECERR, 0)
    assert transport.ask(serial.WRITE, behind, 1) == (DECERR, 0)

    numbers = np.random.default_rng(rng.getrandbits(32))
    m, k, n = 3, 16, 8
    activations = numbers.integers(-128, 128, (m, k), dtype=np.int8)
    weights = numbers.integers(-128, 128, (k, n), dtype=np.int8)
    packed = pack_weights(weights, CONFIGS["tiny"]).reshape(-1)
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
    rings.wait(rings.submit([product], 60), 60)
    transport.invalidate(o)
    np.testing.assert_array_equal(
        o.array.view("<i4").reshape(m, n), reference.gemm(activations, weights)
    )
