"""The emulated overlay: the registers of the gateware, the golden models, a model of its cycles.

Descriptors run when the doorbell is rung. Time is computed, not waited for, unless the overlay is
paced (`ciuic_host.pace`); there is no watchdog.
"""

from __future__ import annotations

import time
from collections import deque

from ciuic.abi import (
    BOARD_MEMORY_BYTES,
    COMPLETION,
    CONFIGS,
    DESCRIPTOR,
    Opcode,
    OverlayConfig,
    Status,
    registers,
)
from ciuic.errors import UsageError

from . import cycle_model, gemm_cycles
from .emulated_engines import Engines
from .gemm_cycles import Job
from .memory import MIB, AccessError, DeviceMemory
from .memory_timing import MemoryTiming
from .pace import Pace
from .transport import Buffer, Transport
from .uri import Options

WORD = (1 << 32) - 1
PLANNED = 64  # GEMMs whose times are found together, at most
BUILD_HASH = 0  # no gateware


def open_transport(options: Options) -> Transport:
    """Open the emulated overlay; options ``config``, ``memory`` (MiB), ``shadow`` (0 or 1).

    ``board`` is the configuration of a board with the memory that the board has. ``pace=real``
    lets work take the time that it takes on the board, and ``link`` (MB/s) lets bytes do so;
    ``clock`` (MHz) is that of the overlay, where it is not what its configuration is meant for.
    How fast its memory is taken to be: ``read_latency``, ``write_latency`` and ``late``, see
    `MemoryTiming`.
    """
    board = options.text("board", "", ("", *BOARD_MEMORY_BYTES))
    config = CONFIGS[options.text("config", board or "sim", CONFIGS)]
    if board not in ("", config.name):
        raise UsageError(f"{options.uri}: config must be {board!r} or left out with that board")
    memory_bytes = BOARD_MEMORY_BYTES.get(board, 1024 * MIB)
    most = 3072 if config.address_bits == 32 else 4096
    capacity = options.integer("memory", memory_bytes // MIB, 1, most) * MIB
    shadow = options.flag("shadow", True)
    timing = MemoryTiming.from_options(options)
    paced = options.text("pace", "none", ("none", "real")) == "real"
    link = options.integer("link", 0, 0, 1_000_000) * 1_000_000
    clock_hz = options.integer("clock", round(config.clock_hz / 1e6), 1, 1000) * 1e6
    options.check_all_known()
    return EmulatedTransport(
        options.uri,
        config,
        capacity=capacity,
        shadow=shadow,
        timing=timing,
        pace=Pace(clock_hz if paced else None, link or None),
        clock_hz=clock_hz,
    )


class EmulatedTransport(Transport):
    """An overlay made of numpy.

    Parameters
    ----------
    name
        The device's name.
    config
        What it pretends to be built with.
    capacity
        Bytes of its memory.
    shadow
        Whether bytes reach the other side only by flush and invalidate.
    timing
        How fast its memory is taken to be.
    pace
        When results are to be seen; at once by default.
    clock_hz
        Of the overlay, by default what its configuration is meant for.
    """

    emulated = True

    def __init__(
        self,
        name: str,
        config: OverlayConfig,
        *,
        capacity: int = 1024 * MIB,
        shadow: bool = True,
        timing: MemoryTiming | None = None,
        pace: Pace | None = None,
        clock_hz: float | None = None,
    ) -> None:
        self.name = name
        self.clock_hz = clock_hz
        self.config = config
        self.memory_bytes = capacity
        self._memory = DeviceMemory(name, capacity=capacity, shadow=shadow)
        self.timing = self._timing = timing or MemoryTiming()
        self._pace = pace or Pace()
        self.link_bytes_per_second = self._pace.link_bytes_per_second
        self._engines = Engines(config, self._memory, self._timing)
        self._stored = {register: 0 for register in registers.REGISTERS if register.access == "RW"}
        self._constants = registers.identity(config, BUILD_HASH)
        self._latched = 0  # high half of the counter that was read last
        self._reset()

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset; outside of the map it is zero."""
        self._settle()
        register = _BY_OFFSET.get(offset)
        if register is None:
            return 0
        if register in self._stored:
            return self._stored[register]
        if register in self._constants:
            return self._constants[register]
        if register in _COUNTER_LOW:
            value = self._counters[_COUNTER_LOW[register]]
            self._latched = value >> 32
            return value & WORD
        return {
            registers.STATUS: registers.STATUS.encode(
                busy=int(self._enabled and self._completed != self._doorbell),
                halted=int(self._code is not None),
                code=self._code or 0,
            ),
            registers.INTERRUPT_STATUS: self._pending,
            registers.COMPLETED: self._completed,
        }.get(register, self._latched)

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        self._settle()
        register = _BY_OFFSET.get(offset)
        if register is registers.INTERRUPT_STATUS:
            self._pending &= ~value
        elif register is registers.CONTROL:
            fields = registers.CONTROL.decode(value)
            self._stored[register] = registers.CONTROL.encode(enable=fields["enable"])
            if fields["reset"]:
                self._reset()
        elif register in self._stored:
            mask = sum((1 << f.width) - 1 << f.low for f in register.fields) or WORD
            self._stored[register] = value & mask
        if register in (registers.CONTROL, registers.DOORBELL):
            self._run()

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page."""
        return self._memory.allocate(nbytes)

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""
        self._memory.free(buffer)
        self._engines.forget(buffer.device_address, buffer.nbytes)

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop) that the CPU wrote to the device."""
        self._pace.move((stop or buffer.nbytes) - start)
        self._memory.flush(buffer, start, stop)
        self._engines.forget(buffer.device_address + start, (stop or buffer.nbytes) - start)

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop) that the device wrote visible to the CPU."""
        self._pace.move((stop or buffer.nbytes) - start)
        self._memory.invalidate(buffer, start, stop)

    def wait_interrupt(self, seconds: float) -> bool:
        """Return whether the interrupt line is high; wait at most ``seconds`` until it is."""
        deadline = time.monotonic() + seconds
        while not self._interrupted() and (left := deadline - time.monotonic()) > 0:
            self._pace.sleep(left)
        return self._interrupted()

    def close(self) -> None:
        """Release everything; a second call does nothing."""
        self._memory.clear()

    # --- the command processor ----------------------------------------------------------------

    @property
    def _enabled(self) -> bool:
        return self._stored[registers.CONTROL] != 0 and not self._halted

    @property
    def _doorbell(self) -> int:
        return self._stored[registers.DOORBELL]

    def _reset(self) -> None:
        self._stored[registers.DOORBELL] = 0
        self._executed = 0
        self._halted = False
        # What of that can be seen.
        self._completed = 0
        self._pending = 0
        self._code: Status | None = None
        self._pace.forget()
        self._counters = dict.fromkeys(registers.COUNTERS, 0)
        self._planned: deque[tuple[int, int]] = deque()
        self._following = False  # the next descriptor comes right behind the last

    def _interrupted(self) -> bool:
        self._settle()
        return bool(self._pending & self._stored[registers.INTERRUPT_ENABLE])

    def _settle(self) -> None:
        """Let be seen what is due."""
        for outcome in self._pace.due():
            self._completed = outcome.completed
            self._pending |= outcome.pending
            self._code = outcome.code

    def _run(self) -> None:
        # Later descriptors are fetched while the first one works.
        fetch_cycles = cycle_model.fetch(self.config, self._timing)
        began, before = self._pace.start(), self._counters["cycles"]
        while self._enabled and self._executed != self._doorbell:
            status = self._step(fetch_cycles)
            fetch_cycles = 0
            self._executed = self._executed + 1 & WORD
            raised, code = 0, None
            if status is not Status.OK:
                self._halted, code = True, status
                raised = registers.INTERRUPT_STATUS.encode(error=1)
            elif self._executed == self._doorbell:
                raised = registers.INTERRUPT_STATUS.encode(done=1)
            cycles = self._counters["cycles"] - before
            self._pace.add(began, cycles, self._executed, raised, code)
        self.late_seconds += self._pace.computed()

    def _step(self, fetch_cycles: int) -> Status:
        """Run the next descriptor and write its record."""
        self._count(cycles=fetch_cycles, beats_read=DESCRIPTOR.nbytes // self.config.bus_bytes)
        fetched = self._counters["cycles"]
        descriptor, status, work = None, Status.READ_ERROR, cycle_model.Work(0)
        try:
            descriptor = self._descriptor(self._executed)
            self._plan(fetched)
            status, work = self._engines.run(descriptor)
        except AccessError:
            pass  # the descriptor itself could not be read
        if status is Status.OK and self._planned:
            started, finished = self._planned.popleft()
        else:
            self._planned.clear()
            cycles = work.following if self._following and work.following else work.cycles
            started, finished = fetched, fetched + cycles
        self._following = status is Status.OK and self._next_follows(descriptor)
        self._account(descriptor, work, finished)
        record = COMPLETION.pack(
            status=status,
            index=self._executed,
            fetched=min(fetched, started),
            started=started,
            finished=finished,
            beats_read=work.beats_read,
            beats_written=work.beats_written,
            busy=work.busy,
            tag=descriptor["tag"] if descriptor else 0,
        )
        self._count(beats_written=COMPLETION.nbytes // self.config.bus_bytes)
        if not (self._planned or self._following):  # otherwise the engine goes on meanwhile
            self._count(cycles=cycle_model.complete(self.config, self._timing))
        return self._answer(record, status)

    def _next_follows(self, descriptor: dict[str, int] | None) -> bool:
        """Return whether the next descriptor is for the same engine, and need not wait for it."""
        index = self._executed + 1 & WORD
        if (
            descriptor is None
            or descriptor["opcode"] not in (Opcode.SOFTMAX, Opcode.ATTENTION)
            or index == self._doorbell
        ):
            return False
        try:
            following = self._descriptor(index)
        except AccessError:
            return False
        return following["opcode"] == descriptor["opcode"] and following["after"] == 0

    def _plan(self, fetched: int) -> None:
        """Find when the GEMMs that follow one another from here on start and end."""
        if self._planned:
            return
        jobs: list[Job] = []
        index = self._executed
        while index != self._doorbell and len(jobs) < PLANNED:
            try:
                descriptor = self._descriptor(index)
            except AccessError:
                break
            job = self._engines.gemm_job(descriptor)
            if job is None or (jobs and descriptor["after"]):
                break
            jobs.append(job)
            index = index + 1 & WORD
        if jobs:
            found = gemm_cycles.spans(self.config, self._timing, tuple(jobs))
            self._planned.extend((fetched + s.started, fetched + s.finished) for s in found)

    def _descriptor(self, index: int) -> dict[str, int]:
        data = self._memory.view(
            self._entry("RING_BASE", DESCRIPTOR.nbytes, index), DESCRIPTOR.nbytes
        )
        return DESCRIPTOR.unpack(data.tobytes())

    def _answer(self, record: bytes, status: Status) -> Status:
        try:
            entry = self._memory.view(
                self._entry("COMPLETION_BASE", len(record), self._executed), len(record)
            )
        except AccessError:
            return Status.WRITE_ERROR
        entry[:] = memoryview(record)
        return status

    def _entry(self, ring: str, nbytes: int, index: int) -> int:
        low, high = (self._stored[registers.BY_NAME[f"{ring}_{half}"]] for half in ("LO", "HI"))
        entries = 1 << self._stored[registers.RING_LOG2]
        address = (low | high << 32) + index % entries * nbytes
        return address & (1 << self.config.address_bits) - 1

    def _account(
        self, descriptor: dict[str, int] | None, work: cycle_model.Work, finished: int
    ) -> None:
        opcode = descriptor["opcode"] if descriptor else None
        cycles = finished - self._counters["cycles"]
        self._count(cycles=cycles, beats_read=work.beats_read, beats_written=work.beats_written)
        if opcode == Opcode.GEMM:
            self._count(gemm_busy=cycles, array_busy=work.busy)
        elif opcode == Opcode.SOFTMAX:
            self._count(softmax_busy=cycles, lanes_busy=work.busy)
        elif opcode == Opcode.ATTENTION:
            self._count(array_busy=work.busy)

    def _count(self, **amounts: int) -> None:
        for name, amount in amounts.items():
            self._counters[name] += amount


_BY_OFFSET = {register.offset: register for register in registers.REGISTERS}
_COUNTER_LOW = {registers.counter(name)[0]: name for name in registers.COUNTERS}
