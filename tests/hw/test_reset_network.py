"""The reset that most registers have goes over a global buffer, and nothing else does."""

from __future__ import annotations

import copy
from typing import Any

import pytest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from ciuic_hw.build import reset_network

CLOCK, RESET, OTHER, READER, FREE = range(2, 7)


def register(reset: Any) -> dict[str, Any]:
    return {"type": "TRELLIS_FF", "connections": {"CLK": [CLOCK], "LSR": [reset]}}


def netlist(resets: dict[Any, int]) -> dict[str, Any]:
    registers = [register(net) for net, count in resets.items() for _ in range(count)]
    cells = {f"r{index}": one for index, one in enumerate(registers)}
    cells["reader"] = {"type": "LUT4", "connections": {"A": [RESET], "Z": [READER]}}
    return {"cells": cells, "netnames": {}}


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reset_network, "FEWEST", 3)


def test_the_largest_reset_is_buffered() -> None:
    module = netlist({RESET: 4, OTHER: 3, "0": 9})
    before = copy.deepcopy(module)
    assert reset_network.buffer_reset(module) == 4
    buffer = module["cells"].pop("reset_buffer")
    assert buffer["type"] == "DCCA"
    assert buffer["connections"] == {"CLKI": [RESET], "CE": ["1"], "CLKO": [FREE]}
    for name, cell in before["cells"].items():
        if cell["connections"].get("LSR") == [RESET]:
            cell["connections"]["LSR"] = buffer["connections"]["CLKO"]
        assert module["cells"][name] == cell, name  # the reader and all others are as they were


@pytest.mark.parametrize("resets", [{RESET: 2, "0": 9}, {"0": 9}, {}])
def test_a_small_reset_stays(resets: dict[Any, int]) -> None:
    module = netlist(resets)
    before = copy.deepcopy(module)
    assert reset_network.buffer_reset(module) == 0
    assert module == before
