"""The GEMM engine against the golden model, on Verilator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.launch import launch

from ciuic.abi import OverlayConfig

pytestmark = pytest.mark.cocotb

CONFIGS = (
    OverlayConfig(name="plain", rows=8, cols=8, accumulator_rows=16),
    # As few beats for a tile as INT4 weights allow.
    OverlayConfig(
        name="two-ports-two-products",
        rows=8,
        cols=16,
        ports=2,
        products_per_dsp=2,
        accumulator_rows=16,
    ),
    # Four blocks of K in a word of the scratchpad, no INT4.
    OverlayConfig(name="wide-bus", rows=4, cols=16, bus_bytes=16, accumulator_rows=16),
    # A tile is a single beat: a row is added to in cycle after cycle.
    OverlayConfig(name="one-beat-tiles", rows=4, cols=4, bus_bytes=16, accumulator_rows=16),
    # Rows of activations are longer than a bank.
    OverlayConfig(name="slices", rows=8, cols=4, activation_words=16, accumulator_rows=16),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_gemm_engine(config: OverlayConfig) -> None:
    from ciuic_hw.gemm.engine import GemmEngine

    launch(
        GemmEngine(config),
        Path(__file__).with_name("gemm_tests.py"),
        parameters=asdict(config),
    )
