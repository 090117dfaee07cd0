"""Running the cases of a bench, on the RTL and on the emulation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy.typing as npt
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.memory_timing import MemoryTiming
from ciuic_host.overlay import Overlay
from ciuic_host.staging import Staging
from ciuic_host.transport import Transport
from ciuic_host.uri import Report, no_report

from ciuic.abi import OverlayConfig, registers
from ciuic.errors import DeviceTimeout

from .settings import MemorySettings
from .transport import RtlTransport

MEMORIES = {
    "ideal": MemoryTiming(read_latency=1, write_latency=1),
    # A beat is a cycle late in one case of ten, so that no overlay can pass 1 / 1.1 of the bus.
    "ddr": MemoryTiming(read_latency=64, write_latency=64, late=10),
}
OUTSTANDING = 64  # bursts that the memory takes ahead
TIMEOUT_SECONDS = 120.0
INTERRUPTS = registers.INTERRUPT_STATUS.encode(done=1, error=1)


@dataclass(frozen=True)
class Staged:
    """A case in the device's memory.

    Parameters
    ----------
    descriptors
        What is submitted with one doorbell.
    finish
        Called when all are done; returns their results and gives the memory back.
    """

    descriptors: list[bytes]
    finish: Callable[[], list[npt.NDArray[Any]]]


class Case(Protocol):
    """Descriptors that are submitted with one doorbell."""

    def stage(self, overlay: Overlay, staging: Staging) -> Staged:
        """Place operands in the device's memory."""
        ...


@dataclass(frozen=True)
class Taken:
    """What a case took.

    Parameters
    ----------
    cycles
        From the doorbell to the interrupt.
    beats
        Beats read over all ports.
    written
        Beats written.
    results
        What `Staged.finish` returned.
    """

    cycles: int
    beats: int
    written: int = 0
    results: list[npt.NDArray[Any]] = field(default_factory=list)


def simulate(
    config: OverlayConfig, memory: str, cases: Sequence[Case], report: Report = no_report
) -> list[Taken]:
    """Run cases on the RTL behind one of `MEMORIES`; build it first if need be."""
    timing = MEMORIES[memory]
    settings = MemorySettings(
        read_latency=timing.read_latency,
        write_latency=timing.write_latency,
        late=timing.late,
        outstanding=OUTSTANDING,
    )
    transport = RtlTransport(
        f"fpga:rtl?config={config.name}", config, settings=settings, report=report
    )
    what = f"simulating {config.name}, {memory} memory"
    return _run_all(transport, cases, lambda: transport.cycles, what, report)


def estimate(
    config: OverlayConfig, memory: str, cases: Sequence[Case], report: Report = no_report
) -> list[Taken]:
    """Run cases on the emulation with the timing of one of `MEMORIES`."""
    transport = EmulatedTransport(
        f"fpga:emulated?config={config.name}", config, timing=MEMORIES[memory]
    )
    low = registers.counter("cycles")[0].offset  # far below 32 bits here
    what = f"emulating {config.name}, {memory} memory"
    return _run_all(transport, cases, lambda: transport.read(low), what, report)


def _run_all(
    transport: Transport,
    cases: Sequence[Case],
    now: Callable[[], int],
    what: str,
    report: Report,
) -> list[Taken]:
    taken = []
    with Overlay(transport) as overlay:
        staging = Staging(transport, overlay.config.alignment)
        for index, case in enumerate(cases):
            taken.append(_run(overlay, transport, staging, case, now))
            report(what, index + 1, len(cases))
        staging.close()
    return taken


def _run(
    overlay: Overlay, transport: Transport, staging: Staging, case: Case, now: Callable[[], int]
) -> Taken:
    staged = case.stage(overlay, staging)
    transport.write(registers.INTERRUPT_STATUS.offset, INTERRUPTS)
    start = now()
    ticket = overlay.submit(staged.descriptors)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not transport.wait_interrupt(1.0):
        if time.monotonic() > deadline:
            raise DeviceTimeout(str(case), seconds=TIMEOUT_SECONDS, status={**overlay.counters()})
    cycles = now() - start
    records = overlay.wait(ticket)
    return Taken(
        cycles,
        sum(record.beats_read for record in records),
        sum(record.beats_written for record in records),
        staged.finish(),
    )
