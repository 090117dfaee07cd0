"""What the benches of the softmax engine run: rows of scores in all formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ciuic_host.overlay import Overlay
from ciuic_host.staging import Staging

from ciuic.abi import DESCRIPTOR, Format, Opcode, OverlayConfig
from ciuic.abi.numerics import SoftmaxScale

from .cases import Staged

DTYPES: dict[Format, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT16: np.int16,
    Format.INT8: np.int8,
}
RESULTS: dict[Format, type[np.unsignedinteger[Any]]] = {
    Format.Q0_16: np.uint16,
    Format.Q0_8: np.uint8,
}
COLS = (64, 197, 576, 1024, 4096)
FEW_ROWS, ROWS = 32, 256
HEADS = 16
DEVIATION = 3.0
"""Standard deviation of the scores times the scale: a few elements of each row matter."""


@dataclass(frozen=True)
class Case:
    """Softmaxes of one shape, a descriptor for each of ``heads``."""

    rows: int
    cols: int
    in_format: Format
    out_format: Format
    heads: int = 1

    @property
    def elements(self) -> int:
        """Scores, and results."""
        return self.heads * self.rows * self.cols

    @property
    def scale(self) -> SoftmaxScale:
        """What multiplies the scores."""
        return SoftmaxScale.encode(DEVIATION / self._deviation)

    @property
    def _deviation(self) -> float:
        return float(np.iinfo(DTYPES[self.in_format]).max) / 5

    def scores(self) -> list[npt.NDArray[Any]]:
        """Return the scores of each head (rows, cols), the same at each call."""
        rng = np.random.default_rng(0)
        dtype = DTYPES[self.in_format]
        limits = np.iinfo(dtype)
        shape = (self.rows, self.cols)
        return [
            np.clip(rng.normal(0, self._deviation, shape), limits.min, limits.max).astype(dtype)
            for _ in range(self.heads)
        ]

    def bounds(self, config: OverlayConfig) -> dict[str, int]:
        """Return the cycles that the lanes and that the bus need at least.

        The bus reads and writes at the same time.
        """
        rows = self.heads * self.rows
        words = -(-self.cols // config.lanes)
        widest = max(self.in_format.nbytes, self.out_format.nbytes)
        return {
            "lanes": rows * words,
            "bus": rows * -(-self.cols * widest // config.bus_bytes),
        }

    def stage(self, overlay: Overlay, staging: Staging) -> Staged:
        """Place the scores in the device's memory."""
        scores = self.scores()
        read, written = (self.cols * one.nbytes for one in (self.in_format, self.out_format))
        shapes = [(self.rows, size) for size in (read, written)] * self.heads
        matrices = staging.matrices(*shapes)
        operands, results = matrices[::2], matrices[1::2]
        for operand, one in zip(operands, scores, strict=True):
            operand.put(one)
        descriptors = [
            DESCRIPTOR.pack(
                opcode=Opcode.SOFTMAX,
                a_addr=operand.address,
                a_stride=operand.stride,
                o_addr=result.address,
                o_stride=result.stride,
                m=self.rows,
                n=self.cols,
                in_format=self.in_format,
                out_format=self.out_format,
                multiplier=self.scale.multiplier,
                shift=self.scale.shift,
            )
            for operand, result in zip(operands, results, strict=True)
        ]
        dtype = RESULTS[self.out_format]
        return Staged(descriptors, lambda: [result.get(dtype) for result in results])

    def __str__(self) -> str:
        heads = f"{self.heads} heads, " if self.heads > 1 else ""
        formats = f"{self.in_format.name} to {self.out_format.name}"
        return f"softmax, {heads}{self.rows} x {self.cols}, {formats}"


def all_cases(config: OverlayConfig) -> list[Case]:
    """Return every shape in every format; and short rows of many heads."""
    formats = [(one, other) for one in DTYPES for other in RESULTS]
    shapes = [(FEW_ROWS, cols, 1) for cols in COLS]
    shapes += [(ROWS, cols, 1) for cols in COLS[:-1]]
    shapes += [(FEW_ROWS, cols, HEADS) for cols in COLS[:2]]
    return [
        Case(rows, cols, one, other, heads)
        for rows, cols, heads in shapes
        if cols <= config.max_row
        for one, other in formats
    ]
