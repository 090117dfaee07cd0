"""Start the benches of the whole overlay."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.identified import IdentifiedOverlay
from ciuic_sim.launch import launch

from ciuic.abi import CONFIGS, OverlayConfig

TESTS = Path(__file__).with_name("overlay_tests.py")
CONFIGURATIONS = (
    CONFIGS["tiny"],
    # Everything that "tiny" has not: four ports, a wide bus, long addresses, an array that is not
    # square, small banks, so that tiles of rows and slices of K occur with small shapes.
    OverlayConfig(
        name="wide",
        rows=4,
        cols=16,
        bus_bytes=16,
        ports=4,
        address_bits=40,
        outstanding=4,
        activation_words=32,
        accumulator_rows=16,
        lanes=8,
        max_row=64,
    ),
)


@pytest.mark.cocotb
@pytest.mark.parametrize("config", CONFIGURATIONS, ids=lambda config: config.name)
def test_overlay(config: OverlayConfig) -> None:
    launch(IdentifiedOverlay(config), TESTS, parameters={"config": asdict(config)})
