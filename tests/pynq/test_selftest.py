"""AMD's self-test of PYNQ.remote against a simulated board: every step that applies passes.

``python -m pynq.remote.selftest`` is a stock client, of which nothing is Ciuic's.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

import pynq
from ciuic_host.bitfile import Bitfile
from ciuic_sim.board import Board
from ciuic_sim.overlay_build import overlay_library
from ciuic_sim.pynq_server import BoardServer
from pynq.pl_server.remote_device import RemoteDevice
from pynq.remote.selftest.steps import STEPS

from ciuic.abi import CONFIGS, registers

from .conftest import Bench

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]

APPLY = {
    "preflight",
    "connectivity",
    "connect",
    "host_packages",  # of its two halves the one for boards without RF data converters
    "file_roundtrip",
    "buffer_roundtrip",
    "overlay_download",
}
DO_NOT_APPLY = {
    "mmio_gpio": "the overlay has no AXI GPIO; below the same is done with a register of its own",
    "overlay_rfdc": "no board of Ciuic has RF data converters; the step says nothing then",
}
NO_GPIO = "[FAIL] no AXI GPIO in the overlay to MMIO-test"
# What pynq 4.0 makes of any Zynq-7000, see `ciuic_host.pynq`; then there is no overlay to go on.
NO_CLOCK = r"\[FAIL\] overlay download failed -- TypeError\(.*NoneType.*"
NO_OVERLAY = "[FAIL] overlay not loaded (--bitstream provided but download/program failed)"


def test_it_is_known_of_every_step_whether_it_applies() -> None:
    steps = {module.__name__.rpartition(".")[2] for _, module in STEPS}
    assert steps == APPLY | set(DO_NOT_APPLY)


def selftest(board: str, folder: Path) -> tuple[list[str], list[str], str]:
    """Run the self-test; return what passed, what failed, and all that it said."""
    with Board(board, library=overlay_library(CONFIGS["tiny"])) as simulated:
        bitstream = Bench(simulated, None, folder).bitstream(board, board)
        with BoardServer(simulated) as server:
            host, _, port = server.address.rpartition(":")
            command = [sys.executable, "-m", "pynq.remote.selftest", "--ip", host, "--port", port]
            done = subprocess.run(
                [*command, "--bitstream", bitstream], capture_output=True, text=True, timeout=60
            )
    print(done.stdout, done.stderr)
    lines = [line.strip() for line in done.stdout.splitlines()]
    passed, failed = ([line for line in lines if mark in line] for mark in ("[PASS]", "[FAIL]"))
    return passed, failed, done.stdout


def test_every_step_that_applies_passes(tmp_path: Path) -> None:
    """One board after the other: stock clients share a file of what they read of bitstreams."""
    passed, failed, said = selftest("kv260", tmp_path)
    assert failed == [NO_GPIO]
    assert any("board=KV260" in line for line in passed)
    assert any(line.endswith("and programmed the PL") for line in passed)
    assert "10 passed, 1 failed, 0 skipped" in said

    passed, failed, said = selftest("pynq-z2", tmp_path)
    assert any("board=Pynq-Z2" in line for line in passed)
    assert re.fullmatch(NO_CLOCK, failed[0])
    assert set(failed[1:]) == {NO_OVERLAY}
    assert "9 passed" in said


def test_a_stock_client_writes_a_register_and_reads_it_back(tmp_path: Path) -> None:
    with Board("kv260", library=overlay_library(CONFIGS["tiny"])) as board:
        bitstream = Bench(board, None, tmp_path).bitstream("kv260", "kv260")
        board.program(Bitfile.read(bitstream).binary())
        with BoardServer(board) as server:
            host, _, port = server.address.rpartition(":")
            device = RemoteDevice(0, host, int(port))
            mmio = pynq.MMIO(board.addresses.control.base, registers.SPAN, device=device)
            assert mmio.read(registers.MAGIC.offset) == registers.MAGIC_VALUE
            for value in (0x5, 0xFFFF_FFFF):
                mmio.write(registers.WATCHDOG.offset, value)
                assert mmio.read(registers.WATCHDOG.offset) == value
            device.client.channel.close()
