"""The simulated board: what processors see of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ciuic_host.bitfile import Bitfile
from ciuic_sim.bitstream import write_bitstream
from ciuic_sim.board import Board
from ciuic_sim.board_registers import IAR, IER, IPR, ISR, IVR, MER, SIE, InterruptController

from ciuic.abi import ADDRESS_MAPS, CONFIGS, registers
from ciuic.errors import DeviceError, OutOfMemory, OverlayMismatch, UsageError

pytestmark = pytest.mark.rtl

MAP = ADDRESS_MAPS["pynq-z2"]
CONTROL, CONTROLLER = MAP.control.base, MAP.interrupt_controller.base
WAIT_SECONDS = 10


def binary(folder: Path, board: str = "pynq-z2", **options: int) -> bytes:
    config = replace(CONFIGS["tiny"], address_bits=40) if board == "kv260" else CONFIGS["tiny"]
    return Bitfile.read(write_bitstream(folder, board, config, **options)).binary()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board("pynq-z2") as opened:
        opened.program(binary(tmp_path))
        yield opened


def test_registers_are_where_the_address_map_says(board: Board) -> None:
    assert board.read32(CONTROL + registers.MAGIC.offset) == registers.MAGIC_VALUE
    board.write32(CONTROL + registers.WATCHDOG.offset, 77)
    assert board.read32(CONTROL + registers.WATCHDOG.offset) == 77


def test_what_was_written_is_gone_once_the_board_is_programmed_again(
    board: Board, tmp_path: Path
) -> None:
    board.write32(CONTROL + registers.RING_BASE_LO.offset, 0x1000)
    board.program(binary(tmp_path))
    assert board.read32(CONTROL + registers.RING_BASE_LO.offset) == 0


def test_an_address_that_is_no_register_is_an_error(board: Board) -> None:
    with pytest.raises(DeviceError, match=r"^pynq-z2: address 0x70000000 must be that of a reg"):
        board.read32(0x7000_0000)


def test_logic_that_is_not_programmed_does_not_answer() -> None:
    with (
        Board("pynq-z2") as empty,
        pytest.raises(DeviceError, match=r"^pynq-z2: the logic must be programmed before it is"),
    ):
        empty.read32(CONTROL)


def test_a_bitstream_of_another_part_is_refused(board: Board, tmp_path: Path) -> None:
    message = "^overlay part must be 7z020, not xck26-sfvc784-2LV-c$"
    with pytest.raises(OverlayMismatch, match=message):
        board.program(binary(tmp_path, "kv260"))
    assert board.read32(CONTROL) == registers.MAGIC_VALUE  # nothing has changed


def test_a_bitstream_of_a_tool_is_refused(board: Board) -> None:
    with pytest.raises(DeviceError, match=r"must be programmed with a simulated bitstream$"):
        board.program(b"\xff" * 64)


def test_a_board_that_there_is_not_is_an_error() -> None:
    with pytest.raises(UsageError, match=r"^board must be one of \['kv260', 'pynq-z2'\], not 'x'$"):
        Board("x")


def test_memory_is_given_out_once_and_taken_back(board: Board) -> None:
    first, second = board.allocate(5000), board.allocate(1)
    assert first.device_address + 5000 <= second.device_address
    with pytest.raises(OutOfMemory):
        board.allocate(board.memory_bytes)
    board.free(first)
    board.free(second)
    assert board.used == 0


def ring_doorbell(board: Board, descriptors: int) -> None:
    """Let the overlay run descriptors of zeros, which do nothing."""
    ring, records = board.allocate(4096), board.allocate(4096)
    for register, value in (
        (registers.RING_BASE_LO, ring.device_address),
        (registers.COMPLETION_BASE_LO, records.device_address),
        (registers.RING_LOG2, 4),
        (registers.INTERRUPT_ENABLE, 3),
        (registers.CONTROL, registers.CONTROL.encode(enable=1)),
        (registers.DOORBELL, descriptors),
    ):
        board.write32(CONTROL + register.offset, value)


def interrupts(board: Board) -> threading.Event:
    """Let interrupts reach the processors; return what is set when one does."""
    raised = threading.Event()
    board.on_interrupt = raised.set
    board.write32(CONTROLLER + SIE, 1)
    board.write32(CONTROLLER + MER, 3)
    assert not raised.is_set()
    return raised


def test_the_overlay_works_on_its_own_and_interrupts(board: Board) -> None:
    raised = interrupts(board)
    ring_doorbell(board, 3)
    assert raised.wait(WAIT_SECONDS)
    assert board.interrupt
    assert board.read32(CONTROL + registers.COMPLETED.offset) == 3


def test_the_overlay_does_nothing_where_its_doorbell_is_cut(board: Board) -> None:
    raised = interrupts(board)
    board.faults.doorbell_cut = True
    ring_doorbell(board, 10)
    assert not raised.wait(0.2)
    assert board.read32(CONTROL + registers.COMPLETED.offset) == 0


def test_an_interrupt_goes_nowhere_where_its_wire_is_cut(board: Board) -> None:
    raised = interrupts(board)
    board.faults.interrupt_cut = True
    ring_doorbell(board, 1)
    assert not raised.wait(0.2)
    assert board.read32(CONTROL + registers.INTERRUPT_STATUS.offset) == 1


def test_a_level_is_latched_until_it_is_acknowledged() -> None:
    controller = InterruptController()
    controller.input = True
    assert controller.read(ISR) == 1
    assert (controller.read(IPR), controller.read(IVR), controller.output) == (
        0,
        0xFFFF_FFFF,
        False,
    )
    controller.write(IER, 1)
    assert not controller.output  # not without the master enable
    controller.write(MER, 3)
    assert (controller.read(IPR), controller.read(IVR), controller.output) == (1, 0, True)
    controller.input = False
    assert controller.output
    controller.write(IAR, 1)
    assert (controller.read(ISR), controller.output) == (0, False)
    controller.input = True
    controller.write(IAR, 1)
    assert controller.output  # acknowledged, but still high
