"""Start the bench of the overlay with all that joins it to a Zynq-7000."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
from ciuic_sim.identified import Zynq7AsAxi4
from ciuic_sim.launch import launch

from ciuic.abi import ADDRESS_MAPS, OverlayConfig

TESTS = Path(__file__).with_name("zynq_tests.py")
CONFIG = OverlayConfig(
    name="zynq",
    rows=4,
    cols=8,
    ports=2,
    activation_words=32,
    accumulator_rows=16,
    lanes=4,
    max_row=64,
)


@pytest.mark.cocotb
def test_overlay_at_a_zynq() -> None:
    system = Zynq7AsAxi4(CONFIG, ADDRESS_MAPS["pynq-z2"])
    launch(system, TESTS, parameters={"config": asdict(CONFIG)})
