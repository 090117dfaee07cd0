"""A bench of one engine against the emulation's, which works on an image of the bench's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from ciuic_host.emulated_engines import Engines
from ciuic_host.memory import AccessError

from ciuic.abi import DESCRIPTOR, OverlayConfig

from . import jobs
from .engine_bench import EngineBench

PAINT = 0xA5  # what lies in memory that nobody wrote


class ReferenceBench(EngineBench):
    """The engine, and the reference working on an image of its memory.

    Parameters
    ----------
    dut, config, reads, settings
        As of an `EngineBench`.
    """

    def __init__(
        self, dut: Any, config: OverlayConfig, *, reads: tuple[str, ...], **settings: float
    ) -> None:
        super().__init__(dut, config, reads=reads, **settings)  # type: ignore[arg-type]
        self.operands = Operands(self)
        self.image = self.operands.image
        self.memory[:] = PAINT
        self._reference = Engines(config, self.operands)

    async def start(self) -> None:
        """Reset the engine."""
        await self.reset()
        await self.cycles(2)

    async def compute(self, *descriptors: jobs.Fields) -> None:
        """Run descriptors handed over together; compare statuses and the whole memory."""
        for fields in descriptors:
            self.submit(**fields)
        for fields in descriptors:
            done = await self.finish(200_000)
            status, work = self._reference.run(DESCRIPTOR.unpack(DESCRIPTOR.pack(**fields)))
            assert done == {"status": status, "busy": work.busy}, (fields, done, status, work)
        self.check_quiet()
        self.compare()

    def compare(self) -> None:
        """Fail if the memory is not what the reference says."""
        different = np.flatnonzero(self.memory != self.image)
        assert different.size == 0, f"{different.size} bytes differ, first at {different[0]:#x}"

    def take_over(self, fields: jobs.Fields) -> None:
        """Let the image have what the memory has where a descriptor writes."""
        results = slice(fields["o_addr"], fields["o_addr"] + fields["m"] * fields["o_stride"])
        self.image[results] = self.memory[results]


class Operands:
    """Hands out places in a bench's memory; what the jobs of `ciuic_sim.jobs` are made in."""

    def __init__(self, bench: EngineBench) -> None:
        self.config = bench.config
        self.rng = bench.rng
        self.image: npt.NDArray[np.uint8] = np.full(bench.memory.size, PAINT, np.uint8)
        self._bench = bench
        self._next = 0

    def space(self, nbytes: int) -> int:
        """Return the address of bytes that nothing else uses, with a painted gap before them."""
        step = self.config.alignment
        address = self._next + step * int(self.rng.integers(1, 9))
        self._next = address + -(-nbytes // step) * step
        assert self._next <= self.image.size, "the bench's memory is full"
        return address

    def place(self, array: npt.NDArray[Any]) -> int:
        """Write an array's bytes to memory and image; return their address."""
        raw = np.ascontiguousarray(array).view(np.uint8).reshape(-1)
        address = self.space(raw.size)
        self._bench.memory[address : address + raw.size] = raw
        self.image[address : address + raw.size] = raw
        return address

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return a view of the image."""
        if address + nbytes > self.image.size:
            raise AccessError(f"{nbytes} bytes at {address:#x} are not in the memory")
        return self.image[address : address + nbytes]
