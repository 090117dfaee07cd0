"""The overlay behind AXI3 on both sides, inside the simulator; `test_zynq.py` starts this.

Every job goes through the bridges: descriptors, operands and results in bursts of 16 beats, weights
over two ports, registers by bursts of the processors, the end by the interrupt controller.
"""

from __future__ import annotations

from typing import Any

import cocotb
from ciuic_sim import jobs
from ciuic_sim.bench import parameters
from ciuic_sim.overlay_bench import OverlayBench
from cocotb.triggers import RisingEdge
from cocotbext.axi import AxiBurstType, AxiBus, AxiMaster, AxiResp

from ciuic.abi import ADDRESS_MAPS, OverlayConfig, Status, registers

CONFIG = OverlayConfig(**parameters()["config"])
ADDRESSES = ADDRESS_MAPS["pynq-z2"]
CONTROLLER = ADDRESSES.interrupt_controller.base
ENABLE, ACKNOWLEDGE, MASTER_ENABLE = CONTROLLER + 0x08, CONTROLLER + 0x0C, CONTROLLER + 0x1C
LONGEST = 16  # beats of an AXI3 burst


class ZynqBench(OverlayBench):
    """`OverlayBench` with processors on AXI3."""

    base = ADDRESSES.control.base

    def __init__(self, dut: Any, *, pause: float = 0) -> None:
        super().__init__(dut, CONFIG, pause=pause)
        cocotb.start_soon(self._watch())
        self.longest = 0

    def master(self) -> Any:
        """Return the processors."""
        dut = self.dut
        bus = AxiBus.from_prefix(dut, "control_")
        return AxiMaster(bus, dut.clk, dut.rst, max_burst_len=LONGEST)

    async def _watch(self) -> None:
        """Keep the length of the longest burst."""
        dut = self.dut
        channels = [
            tuple(getattr(dut, f"{port}__{name}{part}") for part in ("valid", "len"))
            for port in ("memory", "memory_1")
            for name in ("ar", "aw")
        ]
        while True:
            await RisingEdge(dut.clk)
            for valid, length in channels:
                if valid.value == 1:
                    self.longest = max(self.longest, int(length.value) + 1)

    async def word(self, address: int, value: int) -> None:
        """Write a register by its address."""
        await self.control.write(address, value.to_bytes(4, "little"))

    async def configure(self, *, watchdog: int = 0) -> None:
        """Set up the interrupt controller too."""
        await super().configure(watchdog=watchdog)
        await self.word(MASTER_ENABLE, 3)
        await self.word(ENABLE, 1)

    async def clear_interrupt(self) -> None:
        """Clear it in the overlay, then in the controller."""
        await super().clear_interrupt()
        await self.word(ACKNOWLEDGE, 1)
        await RisingEdge(self.dut.clk)
        assert self.dut.interrupt.value == 0


async def started(dut: Any, pause: float = 0) -> ZynqBench:
    bench = ZynqBench(dut, pause=pause)
    await bench.start()
    return bench


@cocotb.test()
async def a_burst_reads_the_identity(dut: Any) -> None:
    bench = await started(dut)
    found = await bench.control.read(bench.base, 8)
    words = [int.from_bytes(found.data[i : i + 4], "little") for i in (0, 4)]
    assert words == [registers.MAGIC_VALUE, registers.ABI_VERSION_VALUE]
    repeated = await bench.control.read(bench.base, 8, burst=AxiBurstType.FIXED)
    assert repeated.data == found.data[:4] * 2
    nothing = await bench.control.read(0x4000_2000, 4)
    assert nothing.resp == AxiResp.DECERR


@cocotb.test()
@cocotb.parametrize(pause=[0, 0.3])
async def random_jobs_equal_the_reference(dut: Any, pause: float) -> None:
    bench = await started(dut, pause)
    for count in (1, 3, 8):
        await bench.run(*(jobs.random_job(bench) for _ in range(count)))
    await bench.run(jobs.copy(bench, 4000), jobs.gemm(bench, 5, 33, 21))
    assert bench.longest == LONGEST


@cocotb.test()
async def an_error_of_the_memory_is_reported(dut: Any) -> None:
    bench = await started(dut)
    job = jobs.copy(bench, 2000)
    middle = job["o_addr"] + 1024  # neither the first nor the last piece of its burst
    bench.writes.refused = range(middle, middle + CONFIG.bus_bytes)
    await bench.fail(Status.WRITE_ERROR, job)
    bench.writes.refused = range(0)
    await bench.start()
    await bench.run(jobs.copy(bench, 77), jobs.softmax(bench, 2, 19))
