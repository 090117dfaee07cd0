"""Which overlay is loaded: its registers against the contract of this package."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ciuic.abi import CONFIGS, OverlayConfig, registers
from ciuic.errors import OverlayMismatch

from .transport import Transport

UNKNOWN = "unknown"  # name of a configuration that this package does not have


def identify(transport: Transport) -> OverlayConfig:
    """Return what the overlay is built with.

    Raises
    ------
    OverlayMismatch
        If there is no overlay, or one that this package cannot drive.
    """
    _expect("magic number", registers.MAGIC_VALUE, transport.read(registers.MAGIC.offset))
    _expect(
        "ABI version", registers.ABI_VERSION_VALUE, transport.read(registers.ABI_VERSION.offset)
    )
    values: dict[str, Any] = {}
    for register in registers.SHAPE:
        values |= register.decode(transport.read(register.offset))
    try:
        found = OverlayConfig(name=UNKNOWN, **values)
    except ValueError as error:
        raise OverlayMismatch("shape", expected="one that can work", found=error) from error
    return next((known for known in CONFIGS.values() if _same(known, found)), found)


def _expect(what: str, expected: int, found: int) -> None:
    if found != expected:
        raise OverlayMismatch(what, expected=f"{expected:#x}", found=f"{found:#x}")


def _same(known: OverlayConfig, found: OverlayConfig) -> bool:
    # A name, a clock and what memory is made of do not show.
    return found == replace(
        known,
        name=found.name,
        clock_hz=found.clock_hz,
        lut_accumulators=found.lut_accumulators,
        softmax_tables=found.softmax_tables,
    )
