"""How jobs end: no error of the memory is lost between two of them."""

from __future__ import annotations

from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from amaranth.sim import Simulator
from ciuic_hw.jobs import outcome

from ciuic.abi import Status

pytestmark = pytest.mark.rtl


def statuses(cycles: list[dict[str, Any]]) -> list[Status]:
    """Return the status behind each cycle in which a job ends, with these inputs in them."""
    m = Module()
    inputs = {name: Signal(name=name) for name in ("read_error", "write_error", "ends")}
    refused = Signal(8, init=Status.PENDING)
    status = outcome(m, refused, **inputs)
    seen: list[Status] = []

    async def bench(ctx: Any) -> None:
        for cycle in cycles:
            for name, signal in inputs.items():
                ctx.set(signal, cycle.get(name, 0))
            ctx.set(refused, cycle.get("refused", Status.PENDING))
            await ctx.tick()
            if cycle.get("ends"):
                seen.append(Status(ctx.get(status)))

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


@pytest.mark.parametrize(
    ("error", "status"),
    [("read_error", Status.READ_ERROR), ("write_error", Status.WRITE_ERROR)],
)
def test_an_error_in_the_cycle_of_an_end_is_of_the_next_job(error: str, status: Status) -> None:
    ok = Status.OK
    end = {"ends": 1}
    assert statuses([{error: 1}, end, end]) == [status, ok]
    assert statuses([{error: 1, **end}, {}, end, end]) == [ok, status, ok]
    assert statuses([end, {error: 1}, {}, end, end]) == [ok, status, ok]


def test_a_refused_job_and_a_read_come_first() -> None:
    both = {"read_error": 1, "write_error": 1}
    bad = {"refused": Status.BAD_SIZE, "ends": 1}
    assert statuses([both, bad, {"ends": 1}]) == [Status.BAD_SIZE, Status.OK]
    assert statuses([both, {"ends": 1}]) == [Status.READ_ERROR]
