"""The softmax engine against the golden model, on Verilator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.launch import launch

from ciuic.abi import OverlayConfig

pytestmark = pytest.mark.cocotb

CONFIGS = (
    OverlayConfig(name="lanes-4", rows=8, cols=8, lanes=4, softmax_tables="lut"),
    OverlayConfig(name="lanes-8", rows=8, cols=8, lanes=8, max_row=256),
    OverlayConfig(name="lanes-16-wide-bus", rows=8, cols=8, lanes=16, bus_bytes=16, max_row=256),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_softmax_engine(config: OverlayConfig) -> None:
    from ciuic_hw.softmax.engine import SoftmaxEngine

    launch(
        SoftmaxEngine(config),
        Path(__file__).with_name("softmax_tests.py"),
        parameters=asdict(config),
    )
