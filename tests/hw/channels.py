"""AXI channels in Amaranth's simulator, and how testbenches are run on a component."""

from __future__ import annotations

import random
from typing import Any

from amaranth.sim import Simulator


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
