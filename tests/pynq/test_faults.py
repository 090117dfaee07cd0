"""What goes wrong on a board: decoded errors in time, nothing leaked, and the next run works.

The fixture ``bench`` runs once more when the test is over, and looks for leaks.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import ciuic_host
import numpy as np
import pytest

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

from ciuic_host import Overlay, pynq_remote
from ciuic_host.bitfile import Bitfile
from ciuic_host.pynq import load_overlay

from ciuic.abi import registers
from ciuic.abi.boards import VLNV
from ciuic.errors import (
    DeviceError,
    DeviceNotFound,
    DeviceTimeout,
    OutOfMemory,
    OverlayMismatch,
    UsageError,
)

from ..boards import board_process
from .conftest import TIMEOUT_SECONDS, Bench

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]

SOON_SECONDS = 5 * TIMEOUT_SECONDS  # within which an error must have come
LARGE = np.zeros((2048, 2048), np.int8)


def rewrite(path: Path, old: str, new: str) -> Path:
    text = path.with_suffix(".hwh").read_text()
    assert old in text
    path.with_suffix(".hwh").write_text(text.replace(old, new))
    return path


# --- the bitstream ----------------------------------------------------------------------------


def test_a_bitstream_of_another_family_is_refused_before_it_is_loaded(bench: Bench) -> None:
    with pytest.raises(OverlayMismatch, match=r"must be zynq-7000, not zynq-ultrascale\+$"):
        bench.open(bench.bitstream("kv260", "kv260"))
    assert bench.board.loaded is None


def test_a_bitstream_of_another_part_is_refused_before_it_is_loaded(bench: Bench) -> None:
    path = bench.bitstream()
    file = Bitfile.read(path)
    path.write_bytes(
        Bitfile(design="x", part="7z010clg400", date="", time="", data=file.data).pack()
    )
    with pytest.raises(OverlayMismatch, match=r"^overlay part .* must be 7z020, not 7z010clg400$"):
        bench.open(path)
    assert bench.board.loaded is None


def test_an_overlay_of_another_abi_is_refused(bench: Bench) -> None:
    other = registers.ABI_VERSION_VALUE + 1
    with pytest.raises(
        OverlayMismatch,
        match=rf"^overlay ABI version must be {registers.ABI_VERSION_VALUE:#x}, not {other:#x}$",
    ):
        bench.open(bench.bitstream(abi_version=other))


def test_a_handoff_file_of_another_abi_is_refused_before_it_is_loaded(bench: Bench) -> None:
    path = rewrite(bench.bitstream(), VLNV, VLNV.rpartition(":")[0] + ":99.0")
    with pytest.raises(OverlayMismatch, match=r"^overlay ABI version .* not 99\.0$"):
        bench.open(path)
    assert bench.board.loaded is None


def test_registers_elsewhere_are_refused_before_the_board_is_programmed(bench: Bench) -> None:
    offset = f'VALUE="{registers.DOORBELL.offset:#x}"'
    path = rewrite(bench.bitstream(), offset, 'VALUE="0xf0"')
    with pytest.raises(OverlayMismatch, match=r"^overlay register DOORBELL .* not at 0xf0$"):
        bench.open(path)
    assert bench.board.loaded is None


def test_a_design_without_the_overlay_is_refused(bench: Bench) -> None:
    path = rewrite(bench.bitstream(), VLNV, "xilinx.com:ip:something:1.0")
    with pytest.raises(OverlayMismatch, match=r"must be one with ciuic:accelerator:overlay, not"):
        bench.open(path)


def test_a_bitstream_without_its_handoff_file_is_an_error(bench: Bench) -> None:
    path = bench.bitstream()
    path.with_suffix(".hwh").unlink()
    with pytest.raises(UsageError, match=rf"{re.escape(path.stem)}\.hwh must be a file$"):
        bench.open(path)


# --- the overlay ------------------------------------------------------------------------------


def test_another_overlay_of_this_process_is_noticed(
    local: Bench, check: Callable[[Overlay], None]
) -> None:
    with local.open() as overlay:
        check(overlay)
        transport = overlay._transport
        load_overlay("test", local.bitstream(), transport._device)  # type: ignore[attr-defined]
        message = r"^fpga:pynq: overlay ciuic-.*\.bit must be loaded, but another one was loaded"
        with pytest.raises(DeviceError, match=message):
            check(overlay)
    assert local.board.used == 0
    with local.open() as overlay:
        check(overlay)


def test_a_board_that_somebody_else_programmed_is_noticed(
    bench: Bench, check: Callable[[Overlay], None]
) -> None:
    with bench.open() as overlay:
        check(overlay)
        bench.board.program(Bitfile.read(bench.bitstream()).binary())
        began = time.monotonic()
        with pytest.raises(DeviceError, match=r"the board was programmed again, or another"):
            check(overlay)
        assert time.monotonic() - began < SOON_SECONDS


def test_an_interrupt_that_never_comes_is_an_error(
    local: Bench, check: Callable[[Overlay], None]
) -> None:
    local.board.faults.interrupt_cut = True
    with local.open() as overlay:
        began = time.monotonic()
        message = r"^no interrupt of fpga:pynq, which the overlay has raised, within .* s "
        # Work that takes longer than the first look at the registers.
        with pytest.raises(DeviceTimeout, match=message):
            overlay.gemm(LARGE[:64, :512], LARGE[:512, :512])
        assert time.monotonic() - began < SOON_SECONDS
    local.board.faults.interrupt_cut = False
    with local.open() as overlay:
        check(overlay)
    assert local.board.used == 0


def test_an_overlay_that_never_begins_is_an_error(
    bench: Bench, check: Callable[[Overlay], None]
) -> None:
    with bench.open() as overlay:
        check(overlay)
        bench.board.faults.doorbell_cut = True
        began = time.monotonic()
        with pytest.raises(DeviceTimeout) as caught:
            overlay.gemm(LARGE[:64], LARGE[:, :512])
        assert time.monotonic() - began < SOON_SECONDS
        assert caught.value.status["submitted"] == 2
        assert caught.value.status["halted"] == 0
        bench.board.faults.doorbell_cut = False


def test_memory_that_the_board_refuses_is_an_error(
    bench: Bench, check: Callable[[Overlay], None]
) -> None:
    with bench.open() as overlay:
        check(overlay)
        used = bench.board.used
        bench.board.faults.memory_refused = True
        with pytest.raises(OutOfMemory) as caught:
            overlay.load_weights(LARGE[:64, :64])
        assert caught.value.wanted == 64 * 64
        assert bench.board.used == used
        bench.board.faults.memory_refused = False
        check(overlay)


def test_memory_beyond_what_the_board_has_is_not_asked_for(bench: Bench) -> None:
    with bench.open() as overlay, pytest.raises(OutOfMemory) as caught:
        overlay.load_weights(np.broadcast_to(np.int8(0), (1 << 16, 1 << 15)))
    assert caught.value.capacity == 16 << 20


# --- the connection ---------------------------------------------------------------------------


def test_a_server_that_is_killed_in_mid_transfer_is_an_error(
    check: Callable[[Overlay], None],
) -> None:
    with board_process("tiny") as (process, uri):
        overlay = ciuic_host.open(uri, timeout=TIMEOUT_SECONDS)
        check(overlay)
        transport = overlay._transport
        buffer = transport.allocate(64 << 20)
        transport.flush(buffer)
        began = time.monotonic()
        threading.Timer(0.05, process.send_signal, [signal.SIGKILL]).start()
        with pytest.raises(DeviceError, match=r"connection to the board lost while"):
            transport.write(registers.WATCHDOG.offset, 0)  # sends what was flushed
        overlay.close()
        assert time.monotonic() - began < SOON_SECONDS
    with board_process("tiny") as (_, uri), ciuic_host.open(uri) as overlay:
        check(overlay)


def test_a_server_that_does_not_answer_any_more_is_an_error(
    check: Callable[[Overlay], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pynq_remote, "CALL_SECONDS", 1.0)
    with board_process("tiny") as (process, uri):
        with ciuic_host.open(uri, timeout=TIMEOUT_SECONDS) as overlay:
            check(overlay)
            process.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            with pytest.raises(DeviceTimeout, match=r"^no answer of fpga:pynq@"):
                check(overlay)
        assert time.monotonic() - began < SOON_SECONDS
        process.send_signal(signal.SIGCONT)
        with ciuic_host.open(uri) as overlay:
            check(overlay)


def test_a_machine_without_a_server_is_an_error() -> None:
    with pytest.raises(DeviceNotFound, match=r"PYNQ\.remote must listen on port 9 of 127\.0\.0\.1"):
        ciuic_host.open("fpga:pynq@127.0.0.1:9?bitstream=x.bit")


def test_a_second_server_on_one_port_is_an_error(bench: Bench) -> None:
    from ciuic_sim.pynq_server import BoardServer

    if bench.server is not None:
        port = int(bench.server.address.rpartition(":")[2])
        with pytest.raises(UsageError, match=r"^address must be free to listen on, not 127\.0\.0"):
            BoardServer(bench.board, port=port)
