"""The emulated overlay's registers; what it computes is compared in tests/integration."""

from __future__ import annotations

import pytest
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.overlay import open as open_overlay

from ciuic.abi import COMPLETION, CONFIGS, DESCRIPTOR, Opcode, Status, registers
from ciuic.errors import UsageError

CONFIG = CONFIGS["tiny"]
ENABLE = registers.CONTROL.encode(enable=1)


@pytest.fixture
def overlay() -> EmulatedTransport:
    return EmulatedTransport("fpga:test", CONFIG)


def test_registers_keep_what_was_written(overlay: EmulatedTransport) -> None:
    for register in registers.REGISTERS:
        if register.access == "RW" and register not in (registers.CONTROL, registers.DOORBELL):
            overlay.write(register.offset, 0xFFFF_FFFF)
            fields = register.decode(overlay.read(register.offset))
            widths = {f.name: f.width for f in register.fields} or {register.name.lower(): 32}
            assert fields == {name: (1 << width) - 1 for name, width in widths.items()}


def test_read_only_registers_keep_their_value(overlay: EmulatedTransport) -> None:
    for register in registers.REGISTERS:
        if register.access == "R":
            before = overlay.read(register.offset)
            overlay.write(register.offset, 0x1234_5678)
            assert overlay.read(register.offset) == before


def test_outside_of_the_map_there_is_nothing(overlay: EmulatedTransport) -> None:
    overlay.write(0xFFC, 1)
    assert overlay.read(0xFFC) == 0


def test_nothing_runs_before_it_is_enabled(overlay: EmulatedTransport) -> None:
    ring, records = overlay.allocate(DESCRIPTOR.nbytes), overlay.allocate(COMPLETION.nbytes)
    ring.array[:] = memoryview(DESCRIPTOR.pack(opcode=Opcode.NOP, tag=5))
    overlay.write(registers.RING_BASE_LO.offset, ring.device_address)
    overlay.write(registers.COMPLETION_BASE_LO.offset, records.device_address)
    overlay.write(registers.DOORBELL.offset, 1)
    assert overlay.read(registers.COMPLETED.offset) == 0
    overlay.flush(ring)
    overlay.write(registers.CONTROL.offset, ENABLE)
    assert overlay.read(registers.COMPLETED.offset) == 1
    overlay.invalidate(records)
    record = COMPLETION.unpack(records.array.tobytes())
    assert (record["status"], record["tag"]) == (Status.OK, 5)


def test_interrupts_are_pending_until_cleared_and_masked_until_enabled(
    overlay: EmulatedTransport,
) -> None:
    overlay.write(registers.CONTROL.offset, ENABLE)
    overlay.write(registers.DOORBELL.offset, 1)  # the ring lies nowhere
    assert overlay.read(registers.INTERRUPT_STATUS.offset) == 2
    assert not overlay.wait_interrupt(0)
    overlay.write(registers.INTERRUPT_ENABLE.offset, 2)
    assert overlay.wait_interrupt(0)
    status = registers.STATUS.decode(overlay.read(registers.STATUS.offset))
    assert (status["halted"], status["code"]) == (1, Status.WRITE_ERROR)
    overlay.write(registers.INTERRUPT_STATUS.offset, 2)
    assert not overlay.wait_interrupt(0)


def test_a_reset_forgets_descriptors_and_counters_but_not_the_rings(
    overlay: EmulatedTransport,
) -> None:
    overlay.write(registers.RING_BASE_LO.offset, 64)
    overlay.write(registers.CONTROL.offset, ENABLE)
    overlay.write(registers.DOORBELL.offset, 1)
    assert overlay.read(registers.counter("cycles")[0].offset) > 0
    overlay.write(registers.CONTROL.offset, registers.CONTROL.encode(reset=1))
    for register in (registers.CONTROL, registers.DOORBELL, registers.COMPLETED, registers.STATUS):
        assert overlay.read(register.offset) == 0
    assert overlay.read(registers.counter("cycles")[0].offset) == 0
    assert overlay.read(registers.RING_BASE_LO.offset) == 64


def test_unknown_options_are_errors() -> None:
    with pytest.raises(
        UsageError, match=r"option must be one of \['board', 'clock', 'config', 'late', "
    ):
        open_overlay("fpga:emulated?confg=tiny")


def test_a_timeout_must_be_positive() -> None:
    with pytest.raises(UsageError, match=r"^timeout must be above 0 seconds, not 0$"):
        open_overlay("fpga:emulated", timeout=0)
