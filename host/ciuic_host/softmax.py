"""Softmax as numpy sees it, checked and turned into a descriptor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import DESCRIPTOR, Flag, Format, Opcode, OverlayConfig
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import ShapeError, UsageError

from .gemm import check_matrix
from .staging import Matrix, Staging

SCORE_FORMATS: dict[str, Format] = {
    "int32": Format.INT32,
    "int16": Format.INT16,
    "int8": Format.INT8,
}
RESULT_DTYPES: dict[Format, type[np.unsignedinteger[Any]]] = {
    Format.Q0_16: np.uint16,
    Format.Q0_8: np.uint8,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Softmax:
    """Softmax over the rows of a matrix; see `Overlay.softmax`."""

    scores: npt.NDArray[np.int8 | np.int16 | np.int32]
    scale: float | SoftmaxScale
    causal: bool
    row_offset: int
    lengths: npt.ArrayLike | None
    out: Format

    def check(self, config: OverlayConfig) -> None:
        """Raise `ShapeError` if an overlay cannot run it."""
        check_matrix("scores", self.scores, tuple(SCORE_FORMATS))
        cols = self.scores.shape[1]
        if cols > config.max_row:
            raise ShapeError(f"scores must have at most {config.max_row} columns, not {cols}")
        if self.out not in RESULT_DTYPES:
            raise ShapeError(f"result format must be Q0_16 or Q0_8, not {self.out!r}")
        if not 0 <= self.row_offset < 1 << 32:
            raise ShapeError(f"row_offset must be from 0 to 2**32 - 1, not {self.row_offset!r}")

    def stage(self, staging: Staging) -> tuple[bytes, Matrix]:
        """Put the operands into the device's memory; return the descriptor and the results."""
        rows, cols = self.scores.shape
        scale = self.scale if isinstance(self.scale, SoftmaxScale) else _encode(self.scale)
        # No matrix at all, or one of a single row.
        lists = [] if self.lengths is None else [_lengths(self.lengths, rows, cols)]
        operand, result, *listed = staging.matrices(
            (rows, cols * self.scores.itemsize),
            (rows, cols * self.out.nbytes),
            *((1, one.nbytes) for one in lists),
        )
        operand.put(self.scores)
        flags = Flag.CAUSAL if self.causal else Flag(0)
        for matrix, one in zip(listed, lists, strict=True):
            matrix.put(one)
            flags |= Flag.LENGTHS
        descriptor = DESCRIPTOR.pack(
            opcode=Opcode.SOFTMAX,
            flags=flags,
            a_addr=operand.address,
            a_stride=operand.stride,
            o_addr=result.address,
            o_stride=result.stride,
            p_addr=listed[0].address if listed else 0,
            m=rows,
            n=cols,
            in_format=SCORE_FORMATS[self.scores.dtype.name],
            out_format=self.out,
            multiplier=scale.multiplier,
            shift=scale.shift,
            row_offset=self.row_offset if self.causal else 0,
        )
        return descriptor, result


def _lengths(lengths: npt.ArrayLike, rows: int, cols: int) -> npt.NDArray[np.uint32]:
    """Return lengths of rows as the overlay reads them (1, rows)."""
    array = np.asarray(lengths)
    if array.shape != (rows,) or array.dtype.kind not in "iu":
        raise ShapeError(f"lengths must be {rows} integers, not {array.dtype} {array.shape}")
    if array.min() < 0 or array.max() > cols:
        raise ShapeError(
            f"lengths must be from 0 to {cols}, not from {array.min()} to {array.max()}"
        )
    return array.astype(np.uint32).reshape(1, rows)


def _encode(scale: float) -> SoftmaxScale:
    try:
        return SoftmaxScale.encode(scale)
    except ValueError as error:
        raise UsageError(str(error)) from error
