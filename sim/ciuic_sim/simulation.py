"""One simulated overlay: what `model.cpp` makes of compiled RTL, and its rules.

Below the transport and the simulated board, which bring the memory's bytes.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ciuic.errors import DeviceError, DeviceTimeout

from .settings import MemorySettings


class ProtocolError(DeviceError):
    """The overlay broke a rule of the AXI bus: a fault of the gateware."""


class Simulation:
    """A running simulation, used from one thread at a time.

    Parameters
    ----------
    name
        The device's name, for errors.
    library
        The compiled simulation, such as `overlay_build.overlay_library` returns.
    settings
        How its memory behaves.
    """

    def __init__(self, name: str, library: Path, settings: MemorySettings) -> None:
        self.name = name
        self._library = _load(library)
        structure = settings.structure()
        self._handle: int | None = self._library.sim_open(ctypes.byref(structure))

    @property
    def cycles(self) -> int:
        """Clock cycles since the simulation began."""
        return int(self._library.sim_cycles(self._open()))

    @property
    def interrupt(self) -> bool:
        """Whether the interrupt line is high."""
        return bool(self._library.sim_interrupt(self._open()))

    def read(self, offset: int) -> int:
        """Return the 32-bit register at a byte offset."""
        value = ctypes.c_uint32()
        self._check(self._library.sim_read(self._open(), offset, ctypes.byref(value)), offset)
        return value.value

    def write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at a byte offset."""
        self._check(self._library.sim_write(self._open(), offset, value), offset)

    def map(self, base: int, data: npt.NDArray[np.uint8]) -> None:
        """Let bytes, whole pages, be the memory at an address; they must outlive the mapping."""
        pointer = data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        self._library.sim_map(self._open(), base, data.nbytes, pointer)

    def unmap(self, base: int) -> None:
        """Take the memory at an address away."""
        self._library.sim_unmap(self._open(), base)

    def refuse(self, start: int, stop: int) -> None:
        """Let the memory answer accesses to [start, stop) with an error; an empty range ends it."""
        self._library.sim_refuse(self._open(), start, stop)

    def run(self, cycles: int) -> None:
        """Simulate a number of cycles, or until the interrupt line is high."""
        self._library.sim_run(self._open(), cycles)
        self._check_rules()

    def close(self) -> None:
        """End the simulation; a second call does nothing."""
        if self._handle is not None:
            self._library.sim_close(self._handle)
            self._handle = None

    def _open(self) -> int:
        if self._handle is None:
            raise DeviceError(f"{self.name} must be open, but it was closed")
        return self._handle

    def _check(self, answered: int, offset: int) -> None:
        self._check_rules()
        if not answered:
            raise DeviceTimeout(
                f"answer of the register at {offset:#x}", seconds=0, status={"cycles": self.cycles}
            )

    def _check_rules(self) -> None:
        violation = self._library.sim_violation(self._open())
        if violation:
            raise ProtocolError(
                f"{self.name}: {violation.decode()} in cycle {self.cycles}: "
                "the gateware broke a rule of the AXI bus"
            )


def _load(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    handle, word, long = ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint64
    for name, result, arguments in (
        ("sim_open", handle, [ctypes.c_void_p]),
        ("sim_close", None, [handle]),
        ("sim_read", ctypes.c_int, [handle, word, ctypes.c_void_p]),
        ("sim_write", ctypes.c_int, [handle, word, word]),
        ("sim_run", long, [handle, long]),
        ("sim_interrupt", ctypes.c_int, [handle]),
        ("sim_cycles", long, [handle]),
        ("sim_violation", ctypes.c_char_p, [handle]),
        ("sim_map", None, [handle, long, long, ctypes.c_void_p]),
        ("sim_unmap", None, [handle, long]),
        ("sim_refuse", None, [handle, long, long]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library
