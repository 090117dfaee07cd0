"""Bench of the whole overlay: cocotbext-axi on both sides, the emulated engines as the reference.

The reference works on an image of the memory. So a comparison of the whole memory shows every
byte that should have been written and was not, and every byte that should not have been.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import numpy.typing as npt
from ciuic_host.emulated_engines import Engines
from ciuic_host.memory import AccessError
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBus, AxiLiteBus, AxiLiteMaster, AxiResp
from cocotbext.axi.axi_ram import AxiRamRead, AxiRamWrite

from ciuic.abi import COMPLETION, DESCRIPTOR, OverlayConfig, Status, registers
from ciuic.abi.registers import Register

from .bench import Bench

MEMORY_BYTES = 1 << 20
RING_LOG2 = 3
RING_BASE = MEMORY_BYTES - 0x4000
COMPLETION_BASE = MEMORY_BYTES - 0x2000
PAINT = 0xA5  # what lies in memory that nobody wrote


class Refusal(Exception):
    """The memory refuses an access."""


class ReadSide(AxiRamRead):
    """The memory's read channels of one port, with refused addresses.

    Attributes
    ----------
    refused
        Addresses that are refused; none at first.
    answer
        The response to those.
    """

    refused = range(0)
    answer = AxiResp.SLVERR

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _answer_refusals(self, self.r_channel, "rresp")

    async def _read(self, address: int, length: int) -> bytes:
        if address in self.refused or address >= MEMORY_BYTES:
            raise Refusal
        data: bytes = await super()._read(address, length)
        return data


class WriteSide(AxiRamWrite):
    """The memory's write channels, with refused addresses; attributes as `ReadSide` has them."""

    refused = range(0)
    answer = AxiResp.SLVERR

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        _answer_refusals(self, self.b_channel, "bresp")

    async def _write(self, address: int, data: bytes) -> None:
        if address in self.refused or address >= MEMORY_BYTES:
            raise Refusal
        await super()._write(address, data)


def _answer_refusals(side: Any, channel: Any, field: str) -> None:
    """Let what cocotbext-axi answers by SLVERR have the answer that a side wants."""
    send = channel.send

    async def answered(beat: Any) -> None:
        if getattr(beat, field) == AxiResp.SLVERR:
            setattr(beat, field, side.answer)
        await send(beat)

    channel.send = answered


class Image:
    """A flat memory for the reference."""

    def __init__(self) -> None:
        self.bytes: npt.NDArray[np.uint8] = np.full(MEMORY_BYTES, PAINT, np.uint8)

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return a view of bytes."""
        if address + nbytes > MEMORY_BYTES:
            raise AccessError(f"{nbytes} bytes at {address:#x} are not in the memory")
        return self.bytes[address : address + nbytes]


class OverlayBench(Bench):
    """The overlay between a master and a memory; `base` is the address of its registers.

    Parameters
    ----------
    dut
        The handle of an `IdentifiedOverlay`.
    config
        Its configuration.
    pause
        Probability of a pause on each channel in each cycle.

    Attributes
    ----------
    reads, writes
        The first memory port, which carries all but the other ports' share of the weights.
    read_ports
        All memory ports that read, ``reads`` first.
    """

    base = 0

    def __init__(self, dut: Any, config: OverlayConfig, *, pause: float = 0) -> None:
        super().__init__(dut)
        logging.getLogger("cocotb.top").setLevel(logging.WARNING)
        self.config = config
        self.control = self.master()
        bus = AxiBus.from_prefix(dut, "memory_")
        self.writes = WriteSide(bus.write, dut.clk, dut.rst, size=MEMORY_BYTES)
        self.reads = ReadSide(bus.read, dut.clk, dut.rst, mem=self.writes.mem)
        stripes = (AxiBus.from_prefix(dut, f"memory_{port}_") for port in range(1, config.ports))
        self.read_ports = (
            self.reads,
            *(ReadSide(bus.read, dut.clk, dut.rst, mem=self.writes.mem) for bus in stripes),
        )
        self.image = Image()
        self.engines = Engines(config, self.image)
        self.submitted = 0
        self._next_free = 0
        self._pause_channels(pause)

    def master(self) -> Any:
        """Return what reads and writes registers."""
        dut = self.dut
        return AxiLiteMaster(AxiLiteBus.from_prefix(dut, "control_"), dut.clk, dut.rst)

    def _pause_channels(self, probability: float) -> None:
        channels = (
            *(port.ar_channel for port in self.read_ports),
            *(port.r_channel for port in self.read_ports),
            self.writes.aw_channel,
            self.writes.w_channel,
            self.writes.b_channel,
            *(self.control.write_if.aw_channel, self.control.write_if.w_channel),
            *(self.control.write_if.b_channel, self.control.read_if.ar_channel),
            self.control.read_if.r_channel,
        )
        if probability:
            for channel in channels:
                channel.set_pause_generator(self.pauses(probability))

    async def start(self) -> None:
        """Reset the overlay, paint the memory, set the rings and let it run."""
        await self.reset()
        self.writes.mem[:] = bytes([PAINT]) * MEMORY_BYTES
        self.image.bytes[:] = PAINT
        await self.configure()

    async def configure(self, *, watchdog: int = 0) -> None:
        """Set the rings and let the overlay run; needed after each reset."""
        self.submitted = 0
        await self.write(registers.RING_BASE_LO, RING_BASE)
        await self.write(registers.RING_BASE_HI, 0)
        await self.write(registers.COMPLETION_BASE_LO, COMPLETION_BASE)
        await self.write(registers.COMPLETION_BASE_HI, 0)
        await self.write(registers.RING_LOG2, RING_LOG2)
        await self.write(registers.WATCHDOG, watchdog)
        both = registers.INTERRUPT_ENABLE.encode(done=1, error=1)
        await self.write(registers.INTERRUPT_STATUS, both)
        await self.write(registers.INTERRUPT_ENABLE, both)
        await self.write(registers.CONTROL, registers.CONTROL.encode(enable=1))

    async def soft_reset(self) -> None:
        """Ask for a reset and wait until it is done; nothing is left of what was before."""
        await self.write(registers.CONTROL, registers.CONTROL.encode(reset=1))
        for _ in range(1000):
            if not (await self.status())["resetting"]:
                break
        else:
            raise AssertionError("the soft reset did not end")
        counters = (registers.counter(name)[0] for name in registers.COUNTERS if name != "cycles")
        state = (registers.DOORBELL, registers.COMPLETED, registers.INTERRUPT_STATUS)
        for register in (*state, *counters):
            left = await self.read(register)
            assert left == 0, f"{register.name} is {left} behind a soft reset"

    async def read(self, register: Register) -> int:
        """Return a register."""
        found = await self.control.read(self.base + register.offset, 4)
        return int.from_bytes(found.data, "little")

    async def write(self, register: Register, value: int) -> None:
        """Write a register."""
        await self.control.write(self.base + register.offset, value.to_bytes(4, "little"))

    async def status(self) -> dict[str, int]:
        """Return the fields of STATUS."""
        return registers.STATUS.decode(await self.read(registers.STATUS))

    async def counters(self) -> dict[str, int]:
        """Return the counters."""
        values = {}
        for name in registers.COUNTERS:
            low, high = registers.counter(name)
            values[name] = await self.read(low) | await self.read(high) << 32
        return values

    # --- memory -------------------------------------------------------------------------------

    def space(self, nbytes: int) -> int:
        """Return the address of bytes that nothing else uses, with a painted gap before them."""
        step = self.config.alignment
        gap = step * int(self.rng.integers(1, 9))
        address = self._next_free + gap
        self._next_free = address + -(-nbytes // step) * step
        assert self._next_free < RING_BASE, "the bench's memory is full"
        return address

    def place(self, array: npt.NDArray[Any]) -> int:
        """Write an array's bytes to memory and image; return their address."""
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        address = self.space(raw.size)
        self.poke(address, raw.tobytes())
        return address

    def poke(self, address: int, data: bytes) -> None:
        """Write bytes to memory and image."""
        self.writes.write(address, data)
        self.image.bytes[address : address + len(data)] = np.frombuffer(data, np.uint8)

    def compare(self) -> None:
        """Fail if the memory, the completion ring left out, is not what the reference says."""
        memory = np.frombuffer(self.writes.mem[:COMPLETION_BASE], np.uint8)
        different = np.flatnonzero(memory != self.image.bytes[:COMPLETION_BASE])
        assert different.size == 0, (
            f"{different.size} bytes differ, the first at {different[0]:#x}: "
            f"{memory[different[0]]:#x}, not {self.image.bytes[different[0]]:#x}"
        )

    # --- descriptors --------------------------------------------------------------------------

    async def submit(self, *descriptors: dict[str, int]) -> None:
        """Put descriptors into the ring and ring the doorbell."""
        entries = 1 << RING_LOG2
        for fields in descriptors:
            slot = self.submitted % entries
            self.poke(RING_BASE + slot * DESCRIPTOR.nbytes, DESCRIPTOR.pack(**fields))
            self.submitted += 1
        await self.write(registers.DOORBELL, self.submitted)

    async def interrupt(self, cycles: int) -> None:
        """Wait for the interrupt line; fail after a number of cycles."""

        async def rise() -> None:
            while self.dut.interrupt.value != 1:
                await RisingEdge(self.dut.clk)

        await self.within(rise(), cycles, "interrupt")

    async def clear_interrupt(self) -> None:
        """Clear the pending interrupts."""
        await self.write(
            registers.INTERRUPT_STATUS, registers.INTERRUPT_STATUS.encode(done=1, error=1)
        )

    def record(self, index: int) -> dict[str, int]:
        """Return the completion record of a descriptor."""
        slot = index % (1 << RING_LOG2)
        start = COMPLETION_BASE + slot * COMPLETION.nbytes
        return COMPLETION.unpack(self.writes.read(start, COMPLETION.nbytes))

    async def run(
        self, *descriptors: dict[str, int], cycles: int = 200_000
    ) -> list[dict[str, int]]:
        """Run descriptors that must succeed, and compare the memory with the reference."""
        first = self.submitted
        await self.submit(*descriptors)
        await self.interrupt(cycles)
        await self.clear_interrupt()
        status = await self.status()
        assert status == {"busy": 0, "halted": 0, "resetting": 0, "code": 0}, status
        records = [self.record(first + i) for i in range(len(descriptors))]
        for index, (fields, record) in enumerate(zip(descriptors, records, strict=True), first):
            expected, work = self.engines.run(DESCRIPTOR.unpack(DESCRIPTOR.pack(**fields)))
            assert expected is Status.OK, (fields, expected)
            found = {name: record[name] for name in ("status", "index", "tag")}
            assert found == {"status": expected, "index": index, "tag": fields.get("tag", 0)}, found
            assert record["fetched"] <= record["started"] <= record["finished"]
            assert record["busy"] == work.busy, (fields, record, work)
        self.compare()
        return records

    async def fail(self, status: Status, descriptor: dict[str, int], cycles: int = 50_000) -> None:
        """Run a descriptor that must fail with a status, and bring the overlay back."""
        index = self.submitted
        await self.submit(descriptor)
        await self.interrupt(cycles)
        found = await self.status()
        assert found == {"busy": 0, "halted": 1, "resetting": 0, "code": status}, found
        pending = registers.INTERRUPT_STATUS.decode(await self.read(registers.INTERRUPT_STATUS))
        assert pending == {"done": 0, "error": 1}, pending
        record = self.record(index)
        assert record["status"] == status, record
        await self.soft_reset()
        await self.configure()
