"""An overlay in Amaranth's simulator: thousands of times slower than Verilator, and all is seen.

The design is that of a board without processors (`ciuic_hw.ecp5.system.Ecp5System`): the driver's
accesses go to it byte by byte, as they would over its serial line. Any signal can be watched
meanwhile, cycle by cycle:

    overlay = WatchedOverlay(CONFIGS["tiny"])
    overlay.watch(valid=overlay.memory.arvalid, ready=overlay.memory.arready)
    rings = Rings(overlay, ring_log2=1)
    ...
    overlay.waves["valid"]  # one value a cycle
"""

from __future__ import annotations

import random
from collections import deque
from typing import Any

import numpy as np
from amaranth.sim import Simulator
from ciuic_host.transport import PAGE_BYTES, Buffer, Transport
from ciuic_hw.ecp5.system import Ecp5System

from ciuic.abi import OverlayConfig, serial
from ciuic.errors import DeviceError, DeviceTimeout, OutOfMemory

ANSWER_CYCLES = 10_000  # within which a request is answered
WAIT_CYCLES = 100  # that pass when the driver waits


class WatchedOverlay(Transport):
    """An overlay whose signals are recorded.

    Parameters
    ----------
    config
        What to simulate.
    pause
        Chance that a byte of the line waits another cycle.
    seed
        Of these pauses.

    Attributes
    ----------
    overlay
        The gateware, a `ciuic_hw.overlay.Overlay`.
    memory
        Its memory port.
    waves
        Name of a watched signal -> its value in each cycle since it is watched.
    """

    name = "watched"
    emulated = True
    memory_bytes = serial.MEMORY_BYTES

    def __init__(self, config: OverlayConfig, *, pause: float = 0.0, seed: int = 0) -> None:
        self._design = Ecp5System(config)
        self.overlay = self._design.overlay
        self.memory = self.overlay.memory
        self.waves: dict[str, list[int]] = {}
        self._watched: list[Any] = []
        self._chance = random.Random(seed)
        self._pause = pause
        self._out: deque[int] = deque()
        self._in: list[int] = []
        self._used = 0
        self._cycles = 0
        self._simulator = Simulator(self._design)
        self._simulator.add_clock(1 / config.clock_hz)
        for process in (self._send, self._receive, self._record):
            self._simulator.add_testbench(process, background=True)

    def watch(self, **signals: Any) -> None:
        """Record signals from here on, in place of those before."""
        self._watched = list(signals.values())
        self.waves = {name: [] for name in signals}

    def request(self, kind: int, *words: int) -> tuple[int, int]:
        """Send a request of `ciuic.abi.serial`; return the response and the word of the answer.

        Raises
        ------
        DeviceTimeout
            If there is no answer.
        """
        self.send(bytes([kind]) + b"".join(w.to_bytes(serial.WORD_BYTES, "little") for w in words))
        length = 1 + serial.WORD_BYTES * (kind == serial.READ)
        self._run(ANSWER_CYCLES, until=lambda: len(self._in) >= length)
        if len(self._in) < length:
            raise DeviceTimeout(
                f"answer of {self.name}", seconds=0, status={"cycles": self._cycles}
            )
        answer, self._in = bytes(self._in), []
        return answer[0], int.from_bytes(answer[1:], "little")

    def send(self, data: bytes) -> None:
        """Send bytes that no answer is waited for."""
        self._out.extend(data)

    # --- the transport ------------------------------------------------------------------------

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""
        return self._word(serial.READ, serial.REGISTERS_BASE + offset)

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        self._word(serial.WRITE, serial.REGISTERS_BASE + offset, value)

    def allocate(self, nbytes: int) -> Buffer:
        """Return a zeroed buffer that starts on a page; what is given back is not used again."""
        pages = -(-nbytes // PAGE_BYTES) * PAGE_BYTES
        left = self.memory_bytes - self._used
        if pages > left:
            raise OutOfMemory(self.name, wanted=nbytes, available=left, capacity=self.memory_bytes)
        self._used += pages
        return Buffer(self._used - pages, np.zeros(nbytes, np.uint8))

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back."""

    def flush(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Hand the bytes [start, stop), whole words, to the device."""
        for index, word in enumerate(buffer.array[start:stop].view("<u4")):
            address = buffer.device_address + start + index * serial.WORD_BYTES
            self._word(serial.WRITE, address, int(word))

    def invalidate(self, buffer: Buffer, start: int = 0, stop: int | None = None) -> None:
        """Make the bytes [start, stop), whole words, visible to the CPU."""
        words = buffer.array[start:stop].view("<u4")
        for index in range(len(words)):
            address = buffer.device_address + start + index * serial.WORD_BYTES
            words[index] = self._word(serial.READ, address)

    def wait_interrupt(self, seconds: float) -> bool:
        """Let some cycles pass; the driver looks at the registers then."""
        self._run(WAIT_CYCLES, until=lambda: False)
        return False

    def close(self) -> None:
        """Nothing is left open."""

    # --- the simulation -----------------------------------------------------------------------

    def _word(self, kind: int, *words: int) -> int:
        response, value = self.request(kind, *words)
        if response:
            raise DeviceError(f"{self.name}: response at {words[0]:#x} must be 0, not {response}")
        return value

    def _run(self, cycles: int, *, until: Any) -> None:
        last = self._cycles + cycles
        while self._cycles < last and not until():
            self._simulator.advance()

    async def _send(self, ctx: Any) -> None:
        stream = self._design.received
        while True:
            if not self._out or self._chance.random() < self._pause:
                await ctx.tick()
                continue
            ctx.set(stream.payload, self._out.popleft())
            ctx.set(stream.valid, 1)
            await ctx.tick().until(stream.ready)
            ctx.set(stream.valid, 0)

    async def _receive(self, ctx: Any) -> None:
        stream = self._design.sent
        while True:
            ctx.set(stream.ready, self._chance.random() >= self._pause)
            _, _, valid, ready, byte = await ctx.tick().sample(
                stream.valid, stream.ready, stream.payload
            )
            if valid and ready:
                self._in.append(byte)

    async def _record(self, ctx: Any) -> None:
        while True:
            waves = list(self.waves.values())
            _, _, *values = await ctx.tick().sample(*self._watched)
            self._cycles += 1
            for wave, value in zip(waves, values, strict=True):
                wave.append(value)
