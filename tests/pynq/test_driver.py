"""The overlay as `pynq.Overlay` gives it to programs that use nothing else of Ciuic."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

import pynq
from ciuic_host.pynq import load_overlay
from ciuic_sim.pynq_device import simulated_board

from ciuic import reference
from ciuic.abi import CONFIGS
from ciuic.errors import DeviceError

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]


def load(board: str, bitstream: Path) -> Any:
    """Program a board: by `pynq` alone but for Zynq-7000, whose clock release 4.0 does not find."""
    if board == "kv260":
        return pynq.Overlay(str(bitstream))
    overlay, _ = load_overlay(board, bitstream, pynq.Device.active_device)
    return overlay


@pytest.mark.parametrize("board", ["pynq-z2", "kv260"])
def test_pynq_finds_the_driver(board: str) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    activations = rng.integers(-128, 128, (5, 40), dtype=np.int8)
    weights = rng.integers(-128, 128, (40, 24), dtype=np.int8)
    scores = rng.integers(-128, 128, (4, 33), dtype=np.int8)
    bits = {"pynq-z2": 32, "kv260": 40}[board]
    config = replace(CONFIGS["tiny"], address_bits=bits)
    with simulated_board(board, config) as bitstream:
        overlay = load(board, bitstream)
        overlay.ciuic.memory_bytes = 16 << 20
        products = overlay.ciuic.gemm(activations, weights)
        np.testing.assert_array_equal(products, reference.gemm(activations, weights))
        fractions = overlay.ciuic.softmax(scores, scale=1 / 16) / 2**16
        exact = np.exp(scores / 16)
        exact /= exact.sum(axis=1, keepdims=True)
        assert abs(fractions - exact).max() < 8 / 2**16
        driver = overlay.ciuic
        driver.close()
        again = overlay.ciuic.gemm(activations, weights)
        np.testing.assert_array_equal(again, products)
        load(board, bitstream)
        with pytest.raises(DeviceError, match="programmed since"):
            driver.gemm(activations, weights)
