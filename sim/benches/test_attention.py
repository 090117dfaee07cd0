"""The attention engine against the golden model, on Verilator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.launch import launch

from ciuic.abi import OverlayConfig

pytestmark = pytest.mark.cocotb

CONFIGS = (
    OverlayConfig(
        name="plain",
        rows=8,
        cols=8,
        lanes=4,
        activation_words=256,
        accumulator_rows=16,
        max_row=32,
        attention=True,
    ),
    # Two records, and eight results, in a beat; a word of scores is a whole row.
    OverlayConfig(
        name="wide-bus",
        rows=16,
        cols=16,
        bus_bytes=16,
        lanes=16,
        activation_words=256,
        accumulator_rows=16,
        max_row=32,
        attention=True,
    ),
    # A row of scores takes the lanes eight cycles.
    OverlayConfig(
        name="two-ports-few-lanes",
        rows=16,
        cols=16,
        ports=2,
        products_per_dsp=2,
        lanes=2,
        activation_words=256,
        accumulator_rows=16,
        lut_accumulators=True,
        max_row=32,
        attention=True,
    ),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_attention_engine(config: OverlayConfig) -> None:
    from ciuic_sim.attention_dut import AttentionDut

    launch(
        AttentionDut(config),
        Path(__file__).with_name("attention_tests.py"),
        parameters=asdict(config),
    )
