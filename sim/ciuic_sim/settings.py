"""How the memory of a simulated overlay behaves."""

from __future__ import annotations

import ctypes
from dataclasses import asdict, dataclass

from ciuic_host.memory_timing import MemoryTiming
from ciuic_host.uri import Options

ONE = 65536  # of which chances and bandwidths are parts


class Structure(ctypes.Structure):
    """``ciuic::Settings`` of ``memory.h``."""

    _fields_ = (
        ("read_latency", ctypes.c_uint32),
        ("write_latency", ctypes.c_uint32),
        ("outstanding", ctypes.c_uint32),
        ("stall", ctypes.c_uint32),
        ("late", ctypes.c_uint32),
        ("bandwidth", ctypes.c_uint32),
        ("seed", ctypes.c_uint64),
    )


@dataclass(frozen=True, kw_only=True)
class MemorySettings(MemoryTiming):
    """Settings of the memory model: its pace, as the emulation knows it too, and more.

    Parameters
    ----------
    outstanding
        Bursts that each direction takes ahead.
    stall
        Chance in percent that a channel does nothing in a cycle.
    bandwidth
        Beats in 100 cycles, each direction.
    seed
        Of the stalls.
    """

    outstanding: int = 32
    stall: int = 0
    bandwidth: int = 100
    seed: int = 1

    @classmethod
    def from_options(cls, options: Options) -> MemorySettings:
        """Return the settings that a device's name asks for; those it does not keep defaults."""
        usual = cls()
        return cls(
            **asdict(MemoryTiming.from_options(options)),
            outstanding=options.integer("outstanding", usual.outstanding, 1, 256),
            stall=options.integer("stall", usual.stall, 0, 95),
            bandwidth=options.integer("bandwidth", usual.bandwidth, 1, 100),
            seed=options.integer("seed", usual.seed, 0, 2**64 - 1),
        )

    def structure(self) -> Structure:
        """Return the settings as C++ reads them."""
        return Structure(
            read_latency=self.read_latency,
            write_latency=self.write_latency,
            outstanding=self.outstanding,
            stall=self.stall * ONE // 100,
            late=self.late * ONE // 100,
            bandwidth=self.bandwidth * ONE // 100,
            seed=self.seed,
        )
