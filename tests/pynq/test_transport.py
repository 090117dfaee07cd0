"""The overlay through `pynq`: clocks, interrupts, names, and what a forgotten flush does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ciuic_host
import numpy as np
import pytest

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

import pynq
from ciuic_host import Overlay
from ciuic_host.pynq_interrupt import InterruptLine
from ciuic_sim.board import Board
from ciuic_sim.overlay_build import overlay_library

from ciuic.abi import CONFIGS, registers
from ciuic.errors import UsageError

from .conftest import Bench

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]


def test_the_clock_is_what_the_bitstream_was_built_for(bench: Bench) -> None:
    with bench.open() as overlay:
        assert overlay._transport.clock_mhz == 100  # type: ignore[attr-defined]


def test_a_slower_clock_is_set_and_read_back(bench: Bench) -> None:
    with bench.open(clock_mhz=50):
        slcr = bench.board.read32(0xF800_0170)  # FPGA0_CLK_CTRL; AMD UG585, B.28
        divisors = (slcr >> 8 & 63) * (slcr >> 20 & 63)
        assert 1000 / divisors == 50
        assert pynq.Clocks.fclk0_mhz == 50


def test_a_clock_faster_than_the_bitstream_is_refused(bench: Bench) -> None:
    message = r"clock must be at most the 100 MHz that the bitstream was built for, not 150$"
    with pytest.raises(UsageError, match=message):
        bench.open(clock_mhz=150)


def test_completion_is_waited_for_by_interrupt(
    local: Bench, check: Callable[[Overlay], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: list[bool] = []
    wait = InterruptLine.wait

    def recorded(line: InterruptLine, seconds: float) -> bool:
        arrived.append(wait(line, seconds))
        return arrived[-1]

    monkeypatch.setattr(InterruptLine, "wait", recorded)
    with local.open() as overlay:
        overlay.gemm(np.ones((64, 512), np.int8), np.ones((512, 256), np.int8))
        assert any(arrived)
        arrived.clear()
    with local.open(poll=True) as overlay:
        check(overlay)
        assert not arrived


def test_a_flush_that_is_forgotten_is_seen(bench: Bench) -> None:
    transport = bench.transport()
    buffer = transport.allocate(8192)
    view = bench.board.view(buffer.device_address, 8192)
    transport.write(registers.WATCHDOG.offset, 0)  # by now the zeros have been sent
    buffer.array[:] = 7
    assert not view.any()
    transport.flush(buffer, 64, 4096)
    transport.write(registers.WATCHDOG.offset, 0)
    assert (view[64:4096] == 7).all()
    assert not view[4096:].any()
    view[:] = 9
    assert (buffer.array == 7).all()
    transport.invalidate(buffer, 128, 256)
    assert (buffer.array[128:256] == 9).all()
    assert (buffer.array[256:] == 7).all()
    transport.free(buffer)
    transport.close()


def test_the_overlay_has_the_names_of_its_registers(local: Bench) -> None:
    with local.open() as overlay:
        block = overlay._transport._overlay.ciuic  # type: ignore[attr-defined]
        assert int(block.register_map.MAGIC) == registers.MAGIC_VALUE
        assert block.register_map.RING_LOG2.log2 == 8
        assert set(registers.BY_NAME) <= set(dir(block.register_map))


def test_names_of_options_are_checked() -> None:
    for query, message in (
        ("bitstream=x.bit&poll=0", "poll must be 1, as PYNQ.remote has no interrupts"),
        ("clok=1", "option must be one of"),
    ):
        with pytest.raises(UsageError, match=message):
            ciuic_host.open(f"fpga:pynq@127.0.0.1?{query}")
    with pytest.raises(UsageError, match=r"address must be HOST or HOST:PORT, not 'x:y'$"):
        ciuic_host.open("fpga:pynq@x:y?bitstream=x.bit")


# --- clients that know nothing of Ciuic -------------------------------------------------------


@pytest.fixture
def kv260(tmp_path: Path) -> Bench:
    """A KV260 of which nothing but the processing system is looked at."""
    return Bench(Board("kv260", library=overlay_library(CONFIGS["tiny"])), None, tmp_path)


def test_a_kv260_has_its_clock_and_port_widths(kv260: Bench) -> None:
    with kv260.board, kv260.transport(kv260.bitstream("kv260", "kv260"), clock_mhz=100) as opened:
        assert opened.clock_mhz == pytest.approx(100, rel=0.01)
        assert opened.read(registers.MAGIC.offset) == registers.MAGIC_VALUE
