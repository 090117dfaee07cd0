"""What the benches of the GEMM engine run: matrix products, on the RTL and on the emulation."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.gemm import Gemm, WeightHandle, stage
from ciuic_host.memory_timing import MemoryTiming
from ciuic_host.overlay import Overlay
from ciuic_host.staging import Staging
from ciuic_host.transport import Transport
from ciuic_host.uri import Report, no_report

from ciuic.abi import OverlayConfig, registers
from ciuic.abi.numerics import W4_GROUP, W4_MAX, W4_MIN
from ciuic.errors import DeviceTimeout
from ciuic.reference import packed_nbytes

from .settings import MemorySettings
from .transport import RtlTransport

Shape = tuple[int, int, int]  # m, k, n

DEEP = ((576, 576), (576, 1536), (1536, 576))  # k, n of SmolLM2's linear layers
# The linear layers of one of its blocks: q, k, v, o, gate, up, down.
BLOCK = ((576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576))
ROWS, CHAIN_ROWS = (1, 64, 128, 256), (1, 64)
RAGGED = ((1, 577, 577), (3, 577, 17), (17, 3, 577), (17, 577, 1), (577, 17, 3), (3, 1, 577))

MEMORIES = {
    "ideal": MemoryTiming(read_latency=1, write_latency=1),
    # A beat is a cycle late in one case of ten, so that no overlay can pass 1 / 1.1 of the bus.
    "ddr": MemoryTiming(read_latency=64, write_latency=64, late=10),
}
OUTSTANDING = 64  # bursts that the memory takes ahead
TIMEOUT_SECONDS = 120.0
INTERRUPTS = registers.INTERRUPT_STATUS.encode(done=1, error=1)


@dataclass(frozen=True)
class Case:
    """Products that are submitted with one doorbell."""

    shapes: tuple[Shape, ...]
    w4: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(m * k * n for m, k, n in self.shapes)

    def beats(self, config: OverlayConfig) -> int:
        """Return the beats in which all operands can be read once, over all ports."""
        return sum(
            packed_nbytes(k, n, config, w4=self.w4) // config.bus_bytes
            + m * -(-k // config.bus_bytes)
            for m, k, n in self.shapes
        )

    def bounds(self, config: OverlayConfig) -> dict[str, float]:
        """Return the cycles that the array and that the memory ports need at least.

        Results go over the first port, whose two directions do not hinder each other.
        """
        written = sum(m * -(-4 * n // config.bus_bytes) for m, _, n in self.shapes)
        return {
            "compute": self.macs / config.macs_per_cycle,
            "memory": max(self.beats(config) / config.ports, written),
        }

    def __str__(self) -> str:
        kind = "w4" if self.w4 else "w8"
        if len(self.shapes) > 1:
            return f"chain of {len(self.shapes)}, {self.shapes[0][0]} rows, {kind}"
        return f"{' x '.join(map(str, self.shapes[0]))}, {kind}"


@dataclass(frozen=True)
class Taken:
    """What a case took: cycles from the doorbell to the interrupt, beats read over all ports."""

    cycles: int
    beats: int


def all_cases(config: OverlayConfig) -> list[Case]:
    """Return the cases that a configuration can run."""
    formats = (False, True) if config.w4 else (False,)
    cases = [Case(((m, k, n),), w4) for m in ROWS for k, n in DEEP for w4 in formats]
    cases += [Case(tuple((m, k, n) for k, n in BLOCK), w4) for m in CHAIN_ROWS for w4 in formats]
    return cases + [Case((shape,), w4) for shape in RAGGED for w4 in formats]


def simulate(
    config: OverlayConfig, memory: str, cases: list[Case], report: Report = no_report
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
    config: OverlayConfig, memory: str, cases: list[Case], report: Report = no_report
) -> list[Taken]:
    """Run cases on the emulation with the timing of one of `MEMORIES`."""
    transport = EmulatedTransport(
        f"fpga:emulated?config={config.name}", config, timing=MEMORIES[memory]
    )
    low = registers.counter("cycles")[0].offset  # far below 32 bits here
    what = f"emulating {config.name}, {memory} memory"
    return _run_all(transport, cases, lambda: transport.read(low), what, report)


def _run_all(
    transport: Transport, cases: list[Case], now: Callable[[], int], what: str, report: Report
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
    rng = np.random.default_rng(0)
    calls = [
        Gemm(
            activations=rng.integers(-128, 128, (m, k), dtype=np.int8),
            weights=_weights(overlay, rng, k, n, w4=case.w4),
        )
        for m, k, n in case.shapes
    ]
    descriptors = [product.descriptor for product in stage(calls, staging)]
    transport.write(registers.INTERRUPT_STATUS.offset, INTERRUPTS)
    start = now()
    ticket = overlay.submit(descriptors)
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not transport.wait_interrupt(1.0):
        if time.monotonic() > deadline:
            raise DeviceTimeout(str(case), seconds=TIMEOUT_SECONDS, status={**overlay.counters()})
    cycles = now() - start
    records = overlay.wait(ticket)
    for call in calls:
        overlay.free(call.weights)
    return Taken(cycles, sum(record.beats_read for record in records))


def _weights(
    overlay: Overlay, rng: np.random.Generator, k: int, n: int, *, w4: bool
) -> WeightHandle:
    if not w4:
        return overlay.load_weights(rng.integers(-128, 128, (k, n), dtype=np.int8))
    values = rng.integers(W4_MIN, W4_MAX, (k, n), dtype=np.int8, endpoint=True)
    scales = rng.integers(1, 1000, (-(-k // W4_GROUP), n)).astype(np.int16)
    return overlay.load_weights_w4(values, scales)
