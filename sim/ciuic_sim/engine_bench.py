"""Bench of one engine alone: a component with `ciuic_hw.axi.ports.EngineSignature`.

Plays the command processor and the memory: hands over descriptors, serves the read and the write
port from a byte array, checks the rules of the ports, and collects statuses.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import cocotb
import numpy as np
import numpy.typing as npt
from amaranth.lib import data
from ciuic_hw.axi.ports import beat_layout, request_layout, requests_open
from cocotb.triggers import RisingEdge

from ciuic.abi import DESCRIPTOR, OverlayConfig

from .bench import Bench
from .streams import StreamDriver, StreamMonitor, pack, unpack

BEATS_AHEAD = 2  # beats of results that the write channel takes before their request


class EngineBench(Bench):
    """An engine with its memory.

    Parameters
    ----------
    dut
        The engine's handle.
    config
        Its configuration.
    memory_bytes
        Size of the memory, which starts at address 0.
    idle
        Probability of an idle cycle before each item that the engine is given.
    backpressure
        Probability of a cycle in which an item of the engine is not taken.
    latency
        Cycles from a request to its first beat, and from the last beat to its acknowledgement.
    reads
        Names of the engine's read ports.

    Attributes
    ----------
    memory
        The bytes, uint8 (memory_bytes,).
    refused
        Addresses that the memory refuses, as a range; empty at first.
    beats_read, beats_written
        Beats that went over the ports.
    """

    def __init__(
        self,
        dut: Any,
        config: OverlayConfig,
        *,
        memory_bytes: int = 1 << 20,
        idle: float = 0,
        backpressure: float = 0,
        latency: int = 0,
        reads: tuple[str, ...] = ("read",),
    ) -> None:
        super().__init__(dut)
        self.config = config
        self.memory: npt.NDArray[np.uint8] = np.zeros(memory_bytes, np.uint8)
        self.refused = range(0)
        self.latency = latency
        self.beats_read = 0
        self.beats_written = 0
        self.descriptors = StreamDriver(self, "descriptor", pause=idle)
        self.done = StreamMonitor(self, "done", pause=backpressure)
        self._writes: deque[dict[str, int]] = deque()
        StreamMonitor(
            self,
            "write__request",
            pause=backpressure,
            on_transfer=self._take_write,
            room=lambda: len(self._writes) < requests_open(config),
        )
        self._due = 0  # beats that were requested, less those that were taken
        self._written = StreamMonitor(
            self,
            "write__data",
            pause=backpressure,
            on_transfer=self._take_beat,
            room=lambda: self._due > -BEATS_AHEAD,
        )
        self._requests = request_layout(config)
        self._reads = [_ReadSide(self, name, idle, backpressure) for name in reads]
        self._status = data.StructLayout({"status": 8, "busy": 32})
        dut.write__busy.value = 0
        dut.write__acknowledged.value = 0
        dut.write__error.value = 0
        cocotb.start_soon(self._serve_writes())

    def submit(self, **fields: int) -> None:
        """Hand a descriptor with the given fields to the engine."""
        self.descriptors.queue.append(int.from_bytes(DESCRIPTOR.pack(**fields), "little"))

    async def finish(self, cycles: int) -> dict[str, int]:
        """Return the next ``status`` and ``busy``; fail after a number of cycles."""
        payload = await self.within(self.done.take(), cycles, "status")
        return unpack(self._status, payload)

    async def run(self, *, cycles: int = 100_000, **fields: int) -> dict[str, int]:
        """Submit a descriptor and return its ``status`` and ``busy``."""
        self.submit(**fields)
        result = await self.finish(cycles)
        self.check_quiet()
        return result

    def check_quiet(self) -> None:
        """Fail if the engine has left anything in flight."""
        left = {
            "read beats": sum(len(side.beats.queue) for side in self._reads),
            "read requests": sum(len(side.requests) for side in self._reads),
            "write requests": len(self._writes),
            "write beats": len(self._written.taken),
        }
        assert not any(left.values()), f"left in flight: {left}"

    def place(self, address: int, array: npt.NDArray[Any]) -> None:
        """Write an array's bytes to the memory."""
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        self.memory[address : address + raw.size] = raw

    def fetch(self, address: int, dtype: npt.DTypeLike, count: int) -> npt.NDArray[Any]:
        """Return a copy of ``count`` numbers of the memory."""
        nbytes = np.dtype(dtype).itemsize * count
        return self.memory[address : address + nbytes].copy().view(dtype)

    def check_request(self, request: dict[str, int], what: str) -> None:
        address, nbytes = request["addr"], request["nbytes"]
        assert nbytes >= 1, f"{what}: nbytes must be at least 1, not {nbytes}"
        assert address % self.config.bus_bytes == 0, f"{what}: address {address:#x} is not aligned"
        assert address + nbytes <= self.memory.size, f"{what}: {address:#x} is outside the memory"

    def _take_write(self, payload: int) -> None:
        request = unpack(self._requests, payload)
        self.check_request(request, "write request")
        self._writes.append(request)
        self._due += -(-request["nbytes"] // self.config.bus_bytes)
        self.dut.write__busy.value = 1

    def _take_beat(self, beat: int) -> None:
        self._written.taken.append(beat)
        self._due -= 1

    async def _serve_writes(self) -> None:
        while True:
            while not self._writes:
                await RisingEdge(self.dut.clk)
            error = await self._store(self._writes[0])
            await self.cycles(self.latency + 1)
            self._writes.popleft()
            self.dut.write__error.value = int(error)
            self.dut.write__acknowledged.value = 1
            self.dut.write__busy.value = int(bool(self._writes))
            await RisingEdge(self.dut.clk)
            self.dut.write__error.value = 0
            self.dut.write__acknowledged.value = 0

    async def _store(self, request: dict[str, int]) -> bool:
        width = self.config.bus_bytes
        error = False
        for offset in range(0, request["nbytes"], width):
            word = (await self._written.take()).to_bytes(width, "little")
            self.beats_written += 1
            start = request["addr"] + offset
            if start in self.refused:
                error = True
                continue
            kept = min(width, request["nbytes"] - offset)
            self.memory[start : start + kept] = np.frombuffer(word[:kept], np.uint8)
        return error


class _ReadSide:
    """Serves one read port from the bench's memory."""

    def __init__(self, bench: EngineBench, name: str, idle: float, backpressure: float) -> None:
        self.requests: deque[tuple[int, dict[str, int]]] = deque()
        self.beats = StreamDriver(bench, f"{name}__data", pause=idle)
        self._bench = bench
        self._name = name
        self._request = request_layout(bench.config)
        self._beat = beat_layout(bench.config)
        StreamMonitor(bench, f"{name}__request", pause=backpressure, on_transfer=self._take)
        cocotb.start_soon(self._serve())

    def _take(self, payload: int) -> None:
        request = unpack(self._request, payload)
        self._bench.check_request(request, f"{self._name} request")
        self.requests.append((self._bench.now() + self._bench.latency, request))

    async def _serve(self) -> None:
        bench, width = self._bench, self._bench.config.bus_bytes
        while True:
            while not self.requests or bench.now() < self.requests[0][0]:
                await RisingEdge(bench.dut.clk)
            request = self.requests.popleft()[1]
            count = -(-request["nbytes"] // width)
            for index in range(count):
                start = request["addr"] + index * width
                error = start in bench.refused
                word = b"" if error else bench.memory[start : start + width].tobytes()
                beat = pack(
                    self._beat,
                    data=int.from_bytes(word, "little"),
                    last=int(index == count - 1),
                    error=int(error),
                )
                self.beats.queue.append(beat)
            bench.beats_read += count
