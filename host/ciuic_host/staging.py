"""One buffer for the operands and results of a call, used again by the next and grown on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .transport import Buffer, Transport

LINE_BYTES = 64  # operands start on a cache line, so that flushes of one never touch another
SMALLEST_BYTES = 1 << 16


def round_up(value: int, step: int) -> int:
    """Return the smallest multiple of ``step`` that is not below ``value``."""
    return -(-value // step) * step


@dataclass(frozen=True)
class Matrix:
    """A matrix in a buffer: rows of ``row_bytes`` bytes, ``stride`` bytes apart."""

    transport: Transport
    buffer: Buffer
    offset: int
    rows: int
    row_bytes: int
    stride: int

    @property
    def address(self) -> int:
        """Device address of the first byte."""
        return self.buffer.device_address + self.offset

    def put(self, array: npt.NDArray[Any]) -> None:
        """Write a matrix (rows, cols) and hand it to the device."""
        raw = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).view(np.uint8)
        self._rows()[:, : self.row_bytes] = raw
        self.transport.flush(self.buffer, self.offset, self.offset + self.rows * self.stride)

    def get(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Take the matrix from the device and return a copy (rows, cols)."""
        self.transport.invalidate(self.buffer, self.offset, self.offset + self.rows * self.stride)
        return self._rows()[:, : self.row_bytes].copy().view(dtype)

    def _rows(self) -> npt.NDArray[np.uint8]:
        part = self.buffer.array[self.offset : self.offset + self.rows * self.stride]
        return part.reshape(self.rows, self.stride)


class Staging:
    """The buffer and the matrices in it.

    Parameters
    ----------
    transport
        Where to allocate.
    alignment
        Of rows, in bytes.

    Attributes
    ----------
    claim
        Called with the bytes that the buffer is to have before it grows; may refuse by an error.
    """

    def __init__(self, transport: Transport, alignment: int) -> None:
        self._transport = transport
        self._alignment = alignment
        self._buffer: Buffer | None = None
        self.claim: Callable[[int], None] = _claim_nothing

    def matrices(self, *shapes: tuple[int, int]) -> list[Matrix]:
        """Return matrices of (rows, row_bytes); those of an earlier call are void."""
        layout = [(rows, size, round_up(size, self._alignment)) for rows, size in shapes]
        sizes = [_matrix_bytes(rows, stride) for rows, _, stride in layout]
        buffer = self._reserve(sum(sizes))
        offsets = [sum(sizes[:index]) for index in range(len(sizes))]
        return [
            Matrix(self._transport, buffer, offset, rows, size, stride)
            for offset, (rows, size, stride) in zip(offsets, layout, strict=True)
        ]

    def close(self) -> None:
        """Give the buffer back."""
        if self._buffer is not None:
            self._transport.free(self._buffer)
            self._buffer = None

    def _reserve(self, nbytes: int) -> Buffer:
        if self._buffer is None or self._buffer.nbytes < nbytes:
            # Powers of two keep the number of growths small; freed first, as memory may be scarce.
            self.claim(_buffer_bytes(nbytes))
            self.close()
            self._buffer = self._transport.allocate(_buffer_bytes(nbytes))
        return self._buffer


def staging_bytes(alignment: int, *shapes: tuple[int, int]) -> int:
    """Return the bytes of the buffer that matrices of (rows, row_bytes) need."""
    return _buffer_bytes(
        sum(_matrix_bytes(rows, round_up(size, alignment)) for rows, size in shapes)
    )


def _claim_nothing(_nbytes: int) -> None:
    """Nobody counts."""


def _matrix_bytes(rows: int, stride: int) -> int:
    return round_up(rows * stride, LINE_BYTES)


def _buffer_bytes(nbytes: int) -> int:
    return max(SMALLEST_BYTES, 1 << (nbytes - 1).bit_length())
