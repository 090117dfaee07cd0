"""Recognising an overlay by its registers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ciuic_host.emulated import EmulatedTransport
from ciuic_host.identity import UNKNOWN, identify
from ciuic_host.overlay import Overlay

from ciuic.abi import CONFIGS, OverlayConfig, registers
from ciuic.abi.registers import Register
from ciuic.errors import OverlayMismatch


class Forged(EmulatedTransport):
    """An overlay with one register that says something else."""

    def __init__(self, register: Register, value: int) -> None:
        self._forged = {register.offset: value}
        super().__init__("fpga:forged", CONFIGS["tiny"])

    def read(self, offset: int) -> int:
        return self._forged.get(offset, super().read(offset))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_known_configurations_are_recognised(config: OverlayConfig) -> None:
    assert identify(EmulatedTransport("fpga:test", config)) == config


def test_an_unknown_configuration_is_described_by_its_registers() -> None:
    config = replace(CONFIGS["tiny"], name=UNKNOWN, rows=64, lanes=16, max_row=16, attention=False)
    assert identify(EmulatedTransport("fpga:test", config)) == config


def test_no_overlay_at_all() -> None:
    with pytest.raises(
        OverlayMismatch, match=r"^overlay magic number must be 0x43495543, not 0xffffffff$"
    ):
        Overlay(Forged(registers.MAGIC, 0xFFFF_FFFF))


def test_another_abi() -> None:
    with pytest.raises(OverlayMismatch, match=r"^overlay ABI version must be 0x1, not 0x7$"):
        Overlay(Forged(registers.ABI_VERSION, 7))


def test_a_shape_that_cannot_be() -> None:
    value = registers.ARRAY_SHAPE.encode(rows=3, cols=8, lanes=4)
    with pytest.raises(
        OverlayMismatch,
        match=r"^overlay shape must be one that can work, "
        "not rows must be a power of two from 4 to 64, not 3$",
    ):
        Overlay(Forged(registers.ARRAY_SHAPE, value))
