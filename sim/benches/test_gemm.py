"""The GEMM engine against the golden model, on Verilator."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.launch import launch

from ciuic.abi import OverlayConfig

pytestmark = pytest.mark.cocotb

CONFIGS = (
    OverlayConfig(name="square", rows=8, cols=8, accumulator_rows=16),
    # Few words: rows of A are cut into slices.
    OverlayConfig(name="narrow", rows=8, cols=4, activation_words=16, accumulator_rows=16),
    # A beat holds the activations of several tiles.
    OverlayConfig(
        name="wide-bus", rows=4, cols=8, bus_bytes=16, activation_words=64, accumulator_rows=16
    ),
)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_gemm_engine(config: OverlayConfig) -> None:
    from ciuic_hw.gemm.engine import GemmEngine

    launch(
        GemmEngine(config),
        Path(__file__).with_name("gemm_tests.py"),
        parameters=asdict(config),
    )
