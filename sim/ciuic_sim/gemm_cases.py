"""What the benches of the GEMM engine run: matrix products."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ciuic_host.gemm import Gemm, WeightHandle, stage
from ciuic_host.overlay import Overlay
from ciuic_host.staging import Staging

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import W4_GROUP, W4_MAX, W4_MIN
from ciuic.reference import packed_nbytes

from .cases import Staged

Shape = tuple[int, int, int]  # m, k, n

DEEP = ((576, 576), (576, 1536), (1536, 576))  # k, n of SmolLM2's linear layers
# The linear layers of one of its blocks: q, k, v, o, gate, up, down.
BLOCK = ((576, 576), (576, 192), (576, 192), (576, 576), (576, 1536), (576, 1536), (1536, 576))
ROWS, CHAIN_ROWS = (1, 64, 128, 256), (1, 64)
RAGGED = ((1, 577, 577), (3, 577, 17), (17, 3, 577), (17, 577, 1), (577, 17, 3), (3, 1, 577))


@dataclass(frozen=True)
class Case:
    """Products that are submitted with one doorbell."""

    shapes: tuple[Shape, ...]
    w4: bool = False

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(m * k * n for m, k, n in self.shapes)

    def beats(self, config: OverlayConfig) -> int:
        """Return the beats in which all operands can be read once, over all ports."""
        return sum(
            packed_nbytes(k, n, config, w4=self.w4) // config.bus_bytes
            + m * -(-k // config.bus_bytes)
            for m, k, n in self.shapes
        )

    def bounds(self, config: OverlayConfig) -> dict[str, float]:
        """Return the cycles that the array and that the memory ports need at least.

        Results go over the first port, whose two directions do not hinder each other.
        """
        written = sum(m * -(-4 * n // config.bus_bytes) for m, _, n in self.shapes)
        return {
            "compute": self.macs / config.macs_per_cycle,
            "memory": max(self.beats(config) / config.ports, written),
        }

    def stage(self, overlay: Overlay, staging: Staging) -> Staged:
        """Place operands, the same at each call, in the device's memory."""
        rng = np.random.default_rng(0)
        calls = [
            Gemm(
                activations=rng.integers(-128, 128, (m, k), dtype=np.int8),
                weights=_weights(overlay, rng, k, n, w4=self.w4),
            )
            for m, k, n in self.shapes
        ]

        def finish() -> list[npt.NDArray[Any]]:
            for call in calls:
                overlay.free(call.weights)
            return []

        return Staged([product.descriptor for product in stage(calls, staging)], finish)

    def __str__(self) -> str:
        kind = "w4" if self.w4 else "w8"
        if len(self.shapes) > 1:
            return f"chain of {len(self.shapes)}, {self.shapes[0][0]} rows, {kind}"
        return f"{' x '.join(map(str, self.shapes[0]))}, {kind}"


def all_cases(config: OverlayConfig) -> list[Case]:
    """Return the cases that a configuration can run."""
    formats = (False, True) if config.w4 else (False,)
    cases = [Case(((m, k, n),), w4) for m in ROWS for k, n in DEEP for w4 in formats]
    cases += [Case(tuple((m, k, n) for k, n in BLOCK), w4) for m in CHAIN_ROWS for w4 in formats]
    return cases + [Case((shape,), w4) for shape in RAGGED for w4 in formats]


def _weights(
    overlay: Overlay, rng: np.random.Generator, k: int, n: int, *, w4: bool
) -> WeightHandle:
    if not w4:
        return overlay.load_weights(rng.integers(-128, 128, (k, n), dtype=np.int8))
    values = rng.integers(W4_MIN, W4_MAX, (k, n), dtype=np.int8, endpoint=True)
    scales = rng.integers(1, 1000, (-(-k // W4_GROUP), n)).astype(np.int16)
    return overlay.load_weights_w4(values, scales)
