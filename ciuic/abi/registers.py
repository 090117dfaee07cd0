"""The register map: 32-bit registers on the AXI4-Lite slave, offsets in bytes.

Access ``R`` is read-only, ``W`` write-only (reads as zero), ``RW`` both, ``W1C`` clears the bits
that are written as one. Counters are 64 bits wide in a low and a high register; reading the low
register latches the high one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .config import OverlayConfig

MAGIC_VALUE = 0x43495543  # "CIUC" as a hexadecimal number reads it
ABI_VERSION_VALUE = 1
SPAN = 0x1000  # bytes of the address space
RING_LOG2_MAX = 12  # the rings hold at most this power of two of entries

Access = Literal["R", "W", "RW", "W1C"]


@dataclass(frozen=True)
class Bits:
    """A field of a register: its lowest bit and width."""

    name: str
    low: int
    width: int


@dataclass(frozen=True)
class Register:
    """One 32-bit register."""

    name: str
    offset: int
    access: Access
    fields: tuple[Bits, ...] = ()

    def decode(self, value: int) -> dict[str, int]:
        """Return the register's fields by name; a register without fields is its one field."""
        if not self.fields:
            return {self.name.lower(): value}
        return {f.name: value >> f.low & (1 << f.width) - 1 for f in self.fields}

    def encode(self, **values: int) -> int:
        """Return the register's value with the given fields set, all others zero."""
        known = {f.name: f for f in self.fields}
        result = 0
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"field must be one of {sorted(known)}, not {name!r}")
            if not 0 <= value < 1 << known[name].width:
                raise ValueError(f"{name} must fit into {known[name].width} bits, not {value!r}")
            result |= value << known[name].low
        return result


MAGIC = Register("MAGIC", 0x00, "R")
ABI_VERSION = Register("ABI_VERSION", 0x04, "R")
# reset: the engines finish the bus transfers they have begun and forget everything else.
# enable: descriptors are fetched while set.
CONTROL = Register("CONTROL", 0x08, "RW", (Bits("reset", 0, 1), Bits("enable", 1, 1)))
STATUS = Register(
    "STATUS",
    0x0C,
    "R",
    (
        Bits("busy", 0, 1),  # a descriptor is being fetched or run
        Bits("halted", 1, 1),  # a descriptor failed; a reset is needed
        Bits("resetting", 2, 1),  # a reset waits for transfers in flight
        Bits("code", 8, 8),  # descriptors.Status of the failed descriptor
    ),
)
INTERRUPT_ENABLE = Register(
    "INTERRUPT_ENABLE", 0x10, "RW", (Bits("done", 0, 1), Bits("error", 1, 1))
)
# done: the ring ran empty (completed caught up with the doorbell); error: the overlay halted.
INTERRUPT_STATUS = Register(
    "INTERRUPT_STATUS", 0x14, "W1C", (Bits("done", 0, 1), Bits("error", 1, 1))
)
RING_BASE_LO = Register("RING_BASE_LO", 0x18, "RW")
RING_BASE_HI = Register("RING_BASE_HI", 0x1C, "RW")
COMPLETION_BASE_LO = Register("COMPLETION_BASE_LO", 0x20, "RW")
COMPLETION_BASE_HI = Register("COMPLETION_BASE_HI", 0x24, "RW")
RING_LOG2 = Register("RING_LOG2", 0x28, "RW", (Bits("log2", 0, 4),))  # entries = 1 << log2
# Number of descriptors submitted since the last reset, modulo 2**32.
DOORBELL = Register("DOORBELL", 0x2C, "RW")
# Number of descriptors completed since the last reset, modulo 2**32.
COMPLETED = Register("COMPLETED", 0x30, "R")
# Cycles without a transfer on the AXI master after which a running descriptor fails; 0: never.
WATCHDOG = Register("WATCHDOG", 0x34, "RW")

ARRAY_SHAPE = Register(
    "ARRAY_SHAPE",
    0x40,
    "R",
    (
        Bits("rows", 0, 8),
        Bits("cols", 8, 8),
        Bits("lanes", 16, 8),
        Bits("products_per_dsp", 24, 8),
    ),
)
BUS_SHAPE = Register(
    "BUS_SHAPE",
    0x44,
    "R",
    (
        Bits("bus_bytes", 0, 8),
        Bits("address_bits", 8, 8),
        Bits("outstanding", 16, 8),
        Bits("ports", 24, 8),
    ),
)
ACTIVATION_WORDS = Register("ACTIVATION_WORDS", 0x48, "R")
ACCUMULATOR_ROWS = Register("ACCUMULATOR_ROWS", 0x4C, "R")
MAX_ROW = Register("MAX_ROW", 0x50, "R")
ENGINES = Register("ENGINES", 0x58, "R", (Bits("attention", 0, 1),))
# What an overlay was built with: fields, or names without fields, are those of OverlayConfig.
SHAPE: tuple[Register, ...] = (
    ARRAY_SHAPE,
    BUS_SHAPE,
    ACTIVATION_WORDS,
    ACCUMULATOR_ROWS,
    MAX_ROW,
    ENGINES,
)
BUILD_HASH = Register("BUILD_HASH", 0x54, "R")  # first 32 bits of sha256 over the gateware sources


def identity(config: OverlayConfig, build_hash: int) -> dict[Register, int]:
    """Return the registers that tell what an overlay is, with their values."""
    values = {MAGIC: MAGIC_VALUE, ABI_VERSION: ABI_VERSION_VALUE, BUILD_HASH: build_hash}
    for register in SHAPE:
        shape = {name: getattr(config, name) for name in register.decode(0)}
        values[register] = register.encode(**shape) if register.fields else shape.popitem()[1]
    return values


COUNTER_BASE = 0x80
COUNTERS: tuple[str, ...] = (
    "cycles",  # since the last reset
    "gemm_busy",  # cycles in which a GEMM descriptor ran
    "array_busy",  # cycles in which the array took a row of activations
    "softmax_busy",  # cycles in which a softmax descriptor ran
    "lanes_busy",  # cycles in which the softmax lanes took elements
    "stall_read",  # cycles with reads in flight and no beat
    "stall_write",  # cycles in which a write beat or address was offered and not taken
    "beats_read",  # beats on the read channels of all ports
    "beats_written",  # beats on the write channel
)


def counter(name: str) -> tuple[Register, Register]:
    """Return the low and the high register of a counter."""
    offset = COUNTER_BASE + 8 * COUNTERS.index(name)
    return (
        Register(f"{name.upper()}_LO", offset, "R"),
        Register(f"{name.upper()}_HI", offset + 4, "R"),
    )


REGISTERS: tuple[Register, ...] = (
    MAGIC,
    ABI_VERSION,
    CONTROL,
    STATUS,
    INTERRUPT_ENABLE,
    INTERRUPT_STATUS,
    RING_BASE_LO,
    RING_BASE_HI,
    COMPLETION_BASE_LO,
    COMPLETION_BASE_HI,
    RING_LOG2,
    DOORBELL,
    COMPLETED,
    WATCHDOG,
    ARRAY_SHAPE,
    BUS_SHAPE,
    ACTIVATION_WORDS,
    ACCUMULATOR_ROWS,
    MAX_ROW,
    BUILD_HASH,
    ENGINES,
    *(register for name in COUNTERS for register in counter(name)),
)

BY_NAME: dict[str, Register] = {register.name: register for register in REGISTERS}
