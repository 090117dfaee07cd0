# amaranth: UnusedElaboratable=no
"""The whole softmax engine in Amaranth's simulator: few and small descriptors, no build needed.

`sim/benches/test_softmax.py` runs far more of them on Verilator; the mutations of the engine are
tried on this.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from amaranth.sim import Simulator
from ciuic_hw.softmax.engine import SoftmaxEngine

from ciuic.abi import DESCRIPTOR, Flag, Format, Opcode, OverlayConfig, Status
from ciuic.abi.numerics import SoftmaxScale
from ciuic.reference import softmax, valid_lengths

pytestmark = pytest.mark.rtl

CONFIG = OverlayConfig(name="test", rows=8, cols=8, lanes=4, max_row=32)
BUS = CONFIG.bus_bytes
DTYPES = {Format.INT32: np.int32, Format.INT16: np.int16, Format.INT8: np.int8}
SLOT, LENGTHS_AT, RESULTS_AT, MEMORY_BYTES = 0x800, 0x5000, 0x6000, 0xB000
UNTOUCHED = 0xA5
WRITE_LATENCY = 12
DEADLINE_CYCLES = 5_000


@dataclass(frozen=True)
class Case:
    """A descriptor: its scores, scale and format of results, lengths and causal mask if any."""

    scores: npt.NDArray[Any]
    scale: float
    out: Format = Format.Q0_16
    lengths: tuple[int, ...] | None = None
    row_offset: int | None = None

    def fields(self, slot: int) -> dict[str, int]:
        rows, cols = self.scores.shape
        scale = SoftmaxScale.encode(self.scale)
        flags = Flag(0)
        if self.row_offset is not None:
            flags |= Flag.CAUSAL
        if self.lengths is not None:
            flags |= Flag.LENGTHS
        return {
            "opcode": Opcode.SOFTMAX,
            "flags": flags,
            "a_addr": slot * SLOT,
            "o_addr": RESULTS_AT + slot * SLOT,
            "p_addr": LENGTHS_AT + slot * SLOT // 16,
            "m": rows,
            "n": cols,
            "a_stride": self.stride(self.scores.itemsize),
            "o_stride": self.stride(self.out.nbytes) + BUS,
            "in_format": next(f for f, dtype in DTYPES.items() if dtype == self.scores.dtype),
            "out_format": self.out,
            "multiplier": scale.multiplier,
            "shift": scale.shift,
            "row_offset": self.row_offset or 0,
        }

    def stride(self, element: int) -> int:
        return -(-self.scores.shape[1] * element // BUS) * BUS

    @property
    def valid(self) -> npt.NDArray[np.int64]:
        return valid_lengths(*self.scores.shape, row_offset=self.row_offset, lengths=self.lengths)

    @property
    def busy(self) -> int:
        return int(np.maximum(1, -(-self.valid // CONFIG.lanes)).sum())

    def expected(self) -> npt.NDArray[Any]:
        scale = SoftmaxScale.encode(self.scale)
        return softmax(self.scores, scale=scale, out=self.out, lengths=self.valid)


class Memory:
    """The memory behind the engine's ports; ``refused`` is an address that it refuses."""

    def __init__(self, cases: list[Case], refused: int | None) -> None:
        self.bytes: npt.NDArray[np.uint8] = np.random.default_rng(0).integers(
            0, 256, MEMORY_BYTES, np.uint8
        )
        self.bytes[RESULTS_AT:] = UNTOUCHED
        self.refused = refused
        self.failed = False
        for slot, case in enumerate(cases):
            fields = case.fields(slot)
            for row, scores in enumerate(case.scores):
                self._put(fields["a_addr"] + row * fields["a_stride"], scores)
            if case.lengths is not None:
                self._put(fields["p_addr"], np.array(case.lengths, np.uint32))

    def _put(self, address: int, array: npt.NDArray[Any]) -> None:
        raw = array.view(np.uint8)
        self.bytes[address : address + raw.size] = raw

    def reads(self, port: Any, pause: float) -> Any:
        async def serve(ctx: Any) -> None:
            rng = np.random.default_rng(1)
            queue: deque[dict[str, int]] = deque()
            ctx.set(port.request.ready, 1)
            while True:
                offered = ctx.get(port.data.valid)
                *_, asked, request, taken = await ctx.tick().sample(
                    port.request.valid, port.request.payload, port.data.ready
                )
                if offered and taken:
                    queue.popleft()
                if asked:
                    beats = -(-request.nbytes // BUS)
                    for at in range(request.addr, request.addr + beats * BUS, BUS):
                        word = int.from_bytes(self.bytes[at : at + BUS].tobytes(), "little")
                        error = at == self.refused
                        last = at + BUS == request.addr + beats * BUS
                        queue.append(
                            {"data": 0 if error else word, "last": int(last), "error": int(error)}
                        )
                waiting = not (offered and not taken) and rng.random() < pause
                ctx.set(port.data.valid, bool(queue) and not waiting)
                if queue:
                    ctx.set(port.data.payload, queue[0])

        return serve

    def writes(self, port: Any, pause: float) -> Any:
        async def serve(ctx: Any) -> None:
            rng = np.random.default_rng(2)
            requests: deque[list[int]] = deque()  # address, bytes left
            early: deque[int] = deque()  # beats
            answers: deque[tuple[int, bool]] = deque()  # when, whether it is an error
            ctx.set(port.request.ready, 1)
            now = 0
            while True:
                ready = ctx.get(port.data.ready)
                *_, asked, request, given, word = await ctx.tick().sample(
                    port.request.valid, port.request.payload, port.data.valid, port.data.payload
                )
                now += 1
                if asked:
                    requests.append([request.addr, request.nbytes])
                if ready and given:
                    early.append(word)
                while early and requests:
                    self._store(requests, answers, early.popleft(), now)
                error, answered = False, bool(answers) and answers[0][0] <= now
                if answered:
                    error = answers.popleft()[1]
                ctx.set(port.acknowledged, answered)
                ctx.set(port.error, error)
                ctx.set(port.busy, bool(requests or answers))
                # As the write channel, it takes two beats before it knows where they go.
                ctx.set(port.data.ready, len(early) < 2 and rng.random() >= pause)

        return serve

    def _store(
        self,
        requests: deque[list[int]],
        answers: deque[tuple[int, bool]],
        word: int,
        now: int,
    ) -> None:
        address, left = requests[0]
        kept = word.to_bytes(BUS, "little")[: min(left, BUS)]
        if address == self.refused:
            self.failed = True
        else:
            self.bytes[address : address + len(kept)] = np.frombuffer(kept, np.uint8)
        requests[0] = [address + BUS, left - BUS]
        if left <= BUS:
            requests.popleft()
            answers.append((now + WRITE_LATENCY, self.failed))
            self.failed = False


def run(
    cases: list[Case], *, pause: float = 0, refused: int | None = None
) -> tuple[list[tuple[int, int]], npt.NDArray[np.uint8]]:
    """Run descriptors one behind the other; return (status, busy) of each and the memory."""
    dut = SoftmaxEngine(CONFIG)
    memory = Memory(cases, refused)
    answers: list[tuple[int, int]] = []

    async def submit(ctx: Any) -> None:
        for slot, case in enumerate(cases):
            raw = DESCRIPTOR.pack(**case.fields(slot))
            ctx.set(dut.descriptor.payload.as_value(), int.from_bytes(raw, "little"))
            ctx.set(dut.descriptor.valid, 1)
            await ctx.tick().until(dut.descriptor.ready)
        ctx.set(dut.descriptor.valid, 0)

    async def finish(ctx: Any) -> None:
        ctx.set(dut.done.ready, 1)
        for _ in range(DEADLINE_CYCLES):
            *_, valid, done = await ctx.tick().sample(dut.done.valid, dut.done.payload)
            if valid:
                answers.append((done.status, done.busy))
            if len(answers) == len(cases):
                return
        raise AssertionError(f"{len(answers)} answers within {DEADLINE_CYCLES} cycles")

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    for port in (dut.read, dut.read_lengths):
        simulator.add_testbench(memory.reads(port, pause), background=True)
    simulator.add_testbench(memory.writes(dut.write, pause), background=True)
    simulator.add_testbench(submit)
    simulator.add_testbench(finish)
    simulator.run()
    return answers, memory.bytes[RESULTS_AT:]


def image(cases: list[Case]) -> npt.NDArray[np.uint8]:
    """Return the memory of the results that the golden model makes."""
    wanted = np.full(MEMORY_BYTES - RESULTS_AT, UNTOUCHED, np.uint8)
    for slot, case in enumerate(cases):
        fields = case.fields(slot)
        for row, results in enumerate(case.expected()):
            start = fields["o_addr"] - RESULTS_AT + row * fields["o_stride"]
            wanted[start : start + results.nbytes] = results.view(np.uint8)
    return wanted


def bell(rng: np.random.Generator, rows: int, cols: int, dtype: type) -> npt.NDArray[Any]:
    high = np.iinfo(dtype).max
    return np.clip(rng.normal(0, high / 6, (rows, cols)), -high, high).astype(dtype)


@pytest.mark.parametrize("pause", [0, 0.4])
def test_neighbouring_descriptors_equal_the_golden_model(pause: float) -> None:
    rng = np.random.default_rng(7)
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    extremes = np.full((4, 9), low, np.int32)
    extremes[1] = high
    extremes[2, 4] = high
    extremes[3, ::2] = high
    cases = [
        Case(bell(rng, 5, 13, np.int8), 0.04),
        Case(bell(rng, 14, 32, np.int8), 0.04),  # more than waits in front of a slow memory
        Case(bell(rng, 10, 32, np.int8), 0.2, Format.Q0_8),  # many results close to nothing
        Case(bell(rng, 6, 5, np.int32), 3e-9, Format.Q0_8, lengths=(3, 0, 5, 2**32 - 1, 1, 4)),
        Case(bell(rng, 3, 32, np.int16), 2e-4, row_offset=29),
        Case(extremes, 1.0, Format.Q0_8),
        Case(extremes, 1e-9),
        Case(bell(rng, 4, 11, np.int8), 5.0, row_offset=2, lengths=(0, 11, 2, 9)),
        Case(np.zeros((9, 1), np.int16), 1.0, Format.Q0_8, row_offset=2**32 - 1),
        Case(bell(rng, 4, 8, np.int8), 0.02, Format.Q0_8, lengths=(4, 8, 0, 0)),
    ]
    answers, results = run(cases, pause=pause)
    np.testing.assert_array_equal(results, image(cases))
    assert answers == [(Status.OK, case.busy) for case in cases]


@pytest.mark.parametrize(
    ("field", "row", "status"),
    [
        ("a_addr", 0, Status.READ_ERROR),
        ("a_addr", 7, Status.READ_ERROR),  # a row without elements follows
        ("p_addr", 0, Status.READ_ERROR),
        ("o_addr", 0, Status.WRITE_ERROR),  # answered while later rows are written
        ("o_addr", 7, Status.WRITE_ERROR),  # answered while the next job is
    ],
)
def test_an_error_belongs_to_its_descriptor_alone(field: str, row: int, status: Status) -> None:
    rng = np.random.default_rng(3)
    cases = [
        Case(bell(rng, 8, 9, np.int8), 0.05, lengths=(first, 9, 4, 9, 9, 1, 9, 9))
        for first in (9, 5, 0, 9)
    ]
    for guilty in (0, 1):
        fields = cases[guilty].fields(guilty)
        stride = {"a_addr": "a_stride", "o_addr": "o_stride"}.get(field)
        refused = fields[field] + (row * fields[stride] if stride else 0)
        answers, _ = run(cases, refused=refused)
        expected = [status if slot == guilty else Status.OK for slot in range(len(cases))]
        assert [one for one, _ in answers] == expected, guilty
