"""The contract between gateware and software. Imports nothing but the standard library.

Read in this order: `config` (what an overlay is built with), `registers` (how it is controlled),
`descriptors` (what it is asked to do and what it answers), `numerics` (the numbers it computes),
`boards` (where all this is on a board). Gateware, driver, golden models, build scripts and benches
all read these files; no number of the contract stands anywhere else.
"""

from . import numerics, registers
from .boards import ADDRESS_MAPS, BOARD_MEMORY_BYTES, AddressMap, Region
from .config import CONFIGS, OverlayConfig
from .descriptors import (
    ATTENTION_ROW,
    COMPLETION,
    DESCRIPTOR,
    PARAMETERS,
    Field,
    Flag,
    Format,
    Opcode,
    Record,
    Status,
)

__all__ = [
    "ADDRESS_MAPS",
    "ATTENTION_ROW",
    "BOARD_MEMORY_BYTES",
    "COMPLETION",
    "CONFIGS",
    "DESCRIPTOR",
    "PARAMETERS",
    "AddressMap",
    "Field",
    "Flag",
    "Format",
    "Opcode",
    "OverlayConfig",
    "Record",
    "Region",
    "Status",
    "numerics",
    "registers",
]
