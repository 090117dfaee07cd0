"""What every cocotb bench needs: clock, reset, random pauses and parameters.

Runs inside the simulator. `ciuic_sim.launch` starts it; `ciuic_sim.streams` drives streams.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterator
from typing import Any

import cocotb
import numpy as np
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, First, RisingEdge, Timer
from cocotb.utils import get_sim_time

from .launch import PARAMETERS_VARIABLE

CLOCK_NS = 10
RESET_CYCLES = 4


def parameters() -> dict[str, Any]:
    """Return the parameters that were given to `ciuic_sim.launch.launch`."""
    values: dict[str, Any] = json.loads(os.environ.get(PARAMETERS_VARIABLE, "{}"))
    return values


class Bench:
    """Clock, reset and random numbers of one test.

    Parameters
    ----------
    dut
        The component's handle.
    clocked
        Whether the component has a clock and a reset.

    Attributes
    ----------
    rng
        Random generator; its seed is the run's, so that a run can be repeated.
    """

    def __init__(self, dut: Any, *, clocked: bool = True) -> None:
        self.dut = dut
        self.rng = np.random.default_rng(cocotb.RANDOM_SEED)
        if clocked:
            dut.rst.value = 1
            Clock(dut.clk, CLOCK_NS, unit="ns").start()

    async def reset(self) -> None:
        """Hold the component's reset for a few cycles."""
        self.dut.rst.value = 1
        await ClockCycles(self.dut.clk, RESET_CYCLES)
        self.dut.rst.value = 0
        await RisingEdge(self.dut.clk)

    async def cycles(self, count: int) -> None:
        """Wait for a number of clock cycles."""
        await ClockCycles(self.dut.clk, count)

    def now(self) -> int:
        """Return the number of the clock cycle since the start of the simulation."""
        return int(get_sim_time("ns")) // CLOCK_NS

    async def within(self, awaitable: Any, cycles: int, what: str) -> Any:
        """Return a task's result; fail if it takes more than a number of cycles."""
        task = cocotb.start_soon(awaitable)
        await First(task, Timer(cycles * CLOCK_NS, unit="ns"))
        if not task.done():
            task.cancel()
            raise AssertionError(f"no {what} within {cycles} cycles")
        return task.result()

    def pauses(self, probability: float) -> Iterator[bool]:
        """Return an endless iterator that is true, meaning "pause", with a probability."""
        if probability == 0:
            return itertools.repeat(False)
        return self._random_pauses(probability)

    def _random_pauses(self, probability: float) -> Iterator[bool]:
        while True:
            yield from (self.rng.random(256) < probability).tolist()
