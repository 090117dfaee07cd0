"""The contract between gateware and software. Imports nothing but the standard library.

Read in this order: `config` (what an overlay is built with), `registers` (how it is controlled),
`descriptors` (what it is asked to do and what it answers), `numerics` (the numbers it computes).
Gateware, driver, golden models and benches all read these four files; no number of the contract
stands anywhere else.
"""

from . import numerics, registers
from .config import BOARD_MEMORY_BYTES, CONFIGS, OverlayConfig
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
    "ATTENTION_ROW",
    "BOARD_MEMORY_BYTES",
    "COMPLETION",
    "CONFIGS",
    "DESCRIPTOR",
    "PARAMETERS",
    "Field",
    "Flag",
    "Format",
    "Opcode",
    "OverlayConfig",
    "Record",
    "Status",
    "numerics",
    "registers",
]
