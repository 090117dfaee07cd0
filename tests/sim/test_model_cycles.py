"""The model of cycles against what the RTL of `sim` took, whose build is too long for a test."""

from __future__ import annotations

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from ciuic_sim.cases import estimate
from ciuic_sim.gemm_cases import Case

from ciuic.abi import CONFIGS

TOLERANCE = 0.025
TAKEN = {  # by `ciuic bench model`: with ideal memory, with that like DDR
    Case(((17, 577, 1),)): (2793, 3236),
    Case(((17, 577, 1),), w4=True): (2396, 2838),
    Case(((3, 1, 577),)): (1383, 1741),
    Case(((3, 1, 577),), w4=True): (1070, 1389),
    Case(((17, 3, 577),)): (5658, 6487),
    Case(((3, 577, 17),)): (3107, 3417),
    Case(((577, 17, 3),)): (4405, 4913),
}


@pytest.mark.parametrize("place", [0, 1], ids=["ideal", "ddr"])
def test_ragged_products_take_as_long_as_on_the_rtl(place: int) -> None:
    found = estimate(CONFIGS["sim"], ("ideal", "ddr")[place], list(TAKEN))
    for (case, cycles), taken in zip(TAKEN.items(), found, strict=True):
        assert taken.cycles == pytest.approx(cycles[place], rel=TOLERANCE), case
