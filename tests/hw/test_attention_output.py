# amaranth: UnusedElaboratable=no
"""Results of attention, in Amaranth's simulator."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from amaranth.sim import Simulator
from ciuic_hw.attention.output import AttentionOutput

from ciuic.abi import CONFIGS, Status


@pytest.mark.rtl
def test_rows_are_requested_where_they_are() -> None:
    """All rows of a half are there at once, so requests come as fast as addresses do."""
    dut = AttentionOutput(CONFIGS["tiny"])
    job = {"o_addr": 0xFFF0, "o_stride": 8, "m": 6, "d_v": 4, "refused": Status.PENDING}
    found: list[int] = []

    async def testbench(ctx: Any) -> None:
        ctx.set(dut.job.payload, job)
        ctx.set(dut.job.valid, 1)
        ctx.set(dut.complete, 0b11)
        ctx.set(dut.write.request.ready, 1)
        await ctx.tick().until(dut.job.ready)
        ctx.set(dut.job.valid, 0)
        for _ in range(60):
            *_, valid, request = await ctx.tick().sample(
                dut.write.request.valid, dut.write.request.payload
            )
            if valid:
                found.append(request.addr)

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    assert found == [0xFFF0 + row * 8 for row in range(6)]
