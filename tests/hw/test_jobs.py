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
    """Return the status that is offered in each cycle, with these inputs in it."""
    m = Module()
    inputs = {name: Signal(name=name) for name in ("read_error", "write_error", "reported")}
    refused = Signal(8, init=Status.PENDING)
    status = outcome(m, refused, **inputs)
    seen: list[Status] = []

    async def bench(ctx: Any) -> None:
        for cycle in cycles:
            for name, signal in inputs.items():
                ctx.set(signal, cycle.get(name, 0))
            ctx.set(refused, cycle.get("refused", Status.PENDING))
            await ctx.delay(0)
            seen.append(Status(ctx.get(status)))
            await ctx.tick()

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return seen


@pytest.mark.parametrize(
    ("error", "status"),
    [("read_error", Status.READ_ERROR), ("write_error", Status.WRITE_ERROR)],
)
def test_an_error_in_the_cycle_of_a_report_is_of_the_next_job(error: str, status: Status) -> None:
    ok = Status.OK
    assert statuses([{error: 1}, {"reported": 1}, {}]) == [ok, status, ok]
    assert statuses([{error: 1, "reported": 1}, {}, {"reported": 1}, {}]) == [
        *(ok, status, status, ok)
    ]


def test_a_refused_job_and_a_read_come_first() -> None:
    both = {"read_error": 1, "write_error": 1}
    assert statuses([both, {"refused": Status.BAD_SIZE}, {}]) == [
        *(Status.OK, Status.BAD_SIZE, Status.READ_ERROR)
    ]
