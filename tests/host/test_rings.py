"""The command queue: order, wrapping, failure, silence."""

from __future__ import annotations

import logging
import time

import pytest
from ciuic_host import rings
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.rings import Rings

from ciuic.abi import CONFIGS, DESCRIPTOR, Opcode, Status, registers
from ciuic.errors import DescriptorError, DeviceTimeout

SECONDS = 5.0
CONFIG = CONFIGS["tiny"]


class Overlay(EmulatedTransport):
    """An emulated overlay whose doorbell, or whose reset, can be disconnected."""

    def __init__(self) -> None:
        self.silent = False
        self.stuck = False
        super().__init__("fpga:test", CONFIG)

    def write(self, offset: int, value: int) -> None:
        if not (self.silent and offset == registers.DOORBELL.offset):
            super().write(offset, value)

    def read(self, offset: int) -> int:
        value = super().read(offset)
        if self.stuck and offset == registers.STATUS.offset:
            value |= registers.STATUS.encode(resetting=1)
        return value


def nop(tag: int = 0) -> bytes:
    return DESCRIPTOR.pack(opcode=Opcode.NOP, tag=tag)


def test_records_come_back_in_order() -> None:
    queue = Rings(Overlay())
    first = queue.submit([nop(1), nop(2)], SECONDS)
    second = queue.submit([nop(3)], SECONDS)
    assert [record.tag for record in queue.wait(second, SECONDS)] == [3]
    records = queue.wait(first, SECONDS)
    assert [(record.index, record.tag) for record in records] == [(0, 1), (1, 2)]
    assert all(record.status is Status.OK for record in records)
    assert all(record.cycles >= 0 for record in records)


def test_the_ring_wraps_and_takes_more_than_it_holds() -> None:
    queue = Rings(Overlay(), ring_log2=2)
    tickets = [queue.submit([nop(10 * i + j) for j in range(i)], SECONDS) for i in range(1, 11)]
    for i, ticket in enumerate(tickets, 1):
        tags = [record.tag for record in queue.wait(ticket, SECONDS)]
        assert tags == [10 * i + j for j in range(i)]


def test_a_record_of_an_earlier_lap_is_not_taken_for_a_new_one() -> None:
    overlay = Overlay()
    queue = Rings(overlay, ring_log2=1)
    queue.wait(queue.submit([nop(1), nop(2)], SECONDS), SECONDS)
    overlay._answer = lambda record, status: status  # type: ignore[method-assign]
    ticket = queue.submit([nop(3)], SECONDS)
    assert overlay.read(registers.COMPLETED.offset) == 3
    with pytest.raises(DeviceTimeout):
        queue.wait(ticket, 0.05)


def test_no_descriptors_are_no_work() -> None:
    queue = Rings(Overlay())
    assert queue.wait(queue.submit([], SECONDS), SECONDS) == []


def test_a_failed_descriptor_is_named_and_the_queue_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = Rings(Overlay())
    before = queue.submit([nop(1)], SECONDS)
    bad = queue.submit([nop(2), DESCRIPTOR.pack(opcode=77)], SECONDS)
    after = queue.submit([nop(3)], SECONDS)
    with caplog.at_level(logging.WARNING), pytest.raises(DescriptorError) as caught:
        queue.wait(after, SECONDS)
    assert str(caught.value) == (
        "descriptor 2 (77) ended with BAD_OPCODE: the overlay does not know the opcode"
    )
    assert (caught.value.code, caught.value.index) == ("BAD_OPCODE", 2)
    assert "descriptor 2 (77) ended with BAD_OPCODE" in caplog.text
    assert [record.tag for record in queue.wait(before, SECONDS)] == [1]  # it was done before
    for ticket in (bad, after):
        with pytest.raises(DescriptorError, match=r"it was given up because the overlay was reset"):
            queue.wait(ticket, SECONDS)
    assert [record.tag for record in queue.wait(queue.submit([nop(4)], SECONDS), SECONDS)] == [4]


def test_a_silent_overlay_is_a_timeout_with_the_status() -> None:
    overlay = Overlay()
    queue = Rings(overlay)
    overlay.silent = True
    ticket = queue.submit([nop()], SECONDS)
    start = time.monotonic()
    with pytest.raises(DeviceTimeout) as caught:
        queue.wait(ticket, 0.05)
    assert time.monotonic() - start < 1
    assert str(caught.value) == (
        "no completion of a descriptor within 0.05 s "
        "(busy=0, halted=0, resetting=0, code=PENDING, submitted=1, completed=0)"
    )
    overlay.silent = False
    queue.reset()
    queue.wait(queue.submit([nop()], SECONDS), SECONDS)


def test_a_full_ring_of_a_silent_overlay_is_a_timeout() -> None:
    overlay = Overlay()
    queue = Rings(overlay, ring_log2=1)
    overlay.silent = True
    queue.submit([nop(), nop()], 0.05)
    with pytest.raises(DeviceTimeout, match=r"^no completion of a descriptor within"):
        queue.submit([nop()], 0.05)


def test_a_reset_that_does_not_end_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rings, "RESET_SECONDS", 0.05)
    overlay = Overlay()
    queue = Rings(overlay)
    overlay.stuck = True
    with pytest.raises(DeviceTimeout, match=r"^no end of a reset within 0\.05 s \(.*resetting=1"):
        queue.reset()


def test_progress_puts_the_timeout_off() -> None:
    """Beats that go on moving keep a long descriptor alive."""

    class Slow(Overlay):
        polls = 0

        def read(self, offset: int) -> int:
            beats = registers.counter("beats_read")[0].offset
            if offset == beats and self.silent:
                self.polls += 1
                if self.polls == 8:
                    self.silent = False
                    super().write(registers.DOORBELL.offset, 1)
                return self.polls
            return super().read(offset)

    overlay = Slow()
    queue = Rings(overlay)
    overlay.silent = True
    ticket = queue.submit([nop()], SECONDS)
    queue.wait(ticket, 0.02)
    assert overlay.polls == 8
