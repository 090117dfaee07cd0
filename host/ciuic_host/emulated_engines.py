"""The engines of the emulated overlay: checks of the hardware, arithmetic of the golden models."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi import Flag, Format, Opcode, OverlayConfig, Status
from ciuic.abi.descriptors import GEMM_MAX_K, MAX_SIZE
from ciuic.abi.numerics import SoftmaxScale

from . import cycle_model
from .cycle_model import Work
from .memory import AccessError

Descriptor = dict[str, int]
Matrix = npt.NDArray[Any]

ALIGNED = ("a_addr", "w_addr", "o_addr", "a_stride", "o_stride")
SCORE_DTYPES: dict[int, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT16: np.int16,
    Format.INT8: np.int8,
}
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)


class Refused(Exception):
    """A descriptor ended with another status than OK."""

    def __init__(self, status: Status) -> None:
        self.status = status
        super().__init__(status.name)


class Memory(Protocol):
    """Where operands and results are."""

    def view(self, address: int, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return a view of bytes; raise `AccessError` if some are not there."""
        ...


class Engines:
    """Runs descriptors on a memory.

    Parameters
    ----------
    config
        The overlay's configuration.
    memory
        Where operands and results are.
    """

    def __init__(self, config: OverlayConfig, memory: Memory) -> None:
        self._config = config
        self._memory = memory
        self._weights: dict[tuple[int, int, int], npt.NDArray[np.int8]] = {}

    def run(self, descriptor: Descriptor) -> tuple[Status, Work]:
        """Run a descriptor; return how it ended and what it cost."""
        try:
            self._check(descriptor)
            engine = {
                Opcode.GEMM: self._gemm,
                Opcode.SOFTMAX: self._softmax,
                Opcode.COPY: self._copy,
                Opcode.NOP: self._nop,
            }[Opcode(descriptor["opcode"])]
            return Status.OK, engine(descriptor)
        except Refused as refused:
            return refused.status, Work(0)

    def forget(self, address: int, nbytes: int) -> None:
        """Drop what was derived from bytes that are about to change."""
        for key in [key for key in self._weights if self._overlaps(key, address, nbytes)]:
            del self._weights[key]

    def _overlaps(self, key: tuple[int, int, int], address: int, nbytes: int) -> bool:
        start, k, n = key
        stop = start + reference.packed_nbytes(k, n, self._config)
        return start < address + nbytes and address < stop

    def _check(self, descriptor: Descriptor) -> None:
        if descriptor["opcode"] not in [opcode.value for opcode in Opcode]:
            raise Refused(Status.BAD_OPCODE)
        if any(descriptor[name] % self._config.alignment for name in ALIGNED):
            raise Refused(Status.BAD_ALIGNMENT)

    def _nop(self, descriptor: Descriptor) -> Work:
        return cycle_model.copy(self._config, 0)

    def _copy(self, descriptor: Descriptor) -> Work:
        nbytes = descriptor["n"]
        if nbytes:
            source = self._read(descriptor["a_addr"], 1, nbytes, nbytes)
            self._write(descriptor["o_addr"], nbytes, source)
        return cycle_model.copy(self._config, nbytes)

    def _gemm(self, descriptor: Descriptor) -> Work:
        m, k, n = (descriptor[name] for name in ("m", "k", "n"))
        if not (0 < m <= MAX_SIZE and 0 < k <= GEMM_MAX_K and 0 < n <= MAX_SIZE):
            raise Refused(Status.BAD_SIZE)
        activations = self._read(descriptor["a_addr"], m, k, descriptor["a_stride"]).view(np.int8)
        weights = self._unpacked(descriptor["w_addr"], k, n)
        result = reference.gemm(activations, weights)
        self._write(descriptor["o_addr"], descriptor["o_stride"], result.view(np.uint8))
        return cycle_model.gemm(self._config, m, k, n)

    def _softmax(self, descriptor: Descriptor) -> Work:
        rows, cols = descriptor["m"], descriptor["n"]
        if not (0 < rows <= MAX_SIZE and 0 < cols <= self._config.max_row):
            raise Refused(Status.BAD_SIZE)
        dtype = SCORE_DTYPES.get(descriptor["in_format"])
        if dtype is None or descriptor["out_format"] not in RESULT_FORMATS:
            raise Refused(Status.BAD_FORMAT)
        try:
            scale = SoftmaxScale(descriptor["multiplier"], descriptor["shift"])
        except ValueError:
            raise Refused(Status.BAD_FORMAT) from None
        in_format, out_format = Format(descriptor["in_format"]), Format(descriptor["out_format"])
        raw = self._read(
            descriptor["a_addr"], rows, cols * in_format.nbytes, descriptor["a_stride"]
        )
        causal = descriptor["flags"] & Flag.CAUSAL
        offset = descriptor["row_offset"] if causal else cols
        lengths = reference.causal_lengths(rows, cols, offset)
        result = reference.softmax(
            raw.view(dtype),
            scale=scale,
            out=out_format,
            lengths=lengths,
        )
        self._write(descriptor["o_addr"], descriptor["o_stride"], result.view(np.uint8))
        return cycle_model.softmax(self._config, lengths, cols, in_format, out_format)

    def _unpacked(self, address: int, k: int, n: int) -> npt.NDArray[np.int8]:
        key = (address, k, n)
        if key not in self._weights:
            nbytes = reference.packed_nbytes(k, n, self._config)
            packed = self._read(address, 1, nbytes, nbytes).view(np.int8)
            weights = reference.unpack_weights(packed, k, n, self._config)
            self._weights[key] = np.ascontiguousarray(weights)
        return self._weights[key]

    def _read(self, address: int, rows: int, row_bytes: int, stride: int) -> Matrix:
        """Return rows as a contiguous copy (rows, row_bytes), uint8."""
        beats = -(-row_bytes // self._config.bus_bytes) * self._config.bus_bytes
        try:
            return self._rows(address, rows, beats, stride)[:, :row_bytes].copy()
        except AccessError:
            raise Refused(Status.READ_ERROR) from None

    def _write(self, address: int, stride: int, rows: Matrix) -> None:
        try:
            target = self._rows(address, rows.shape[0], rows.shape[1], stride)
        except AccessError:
            raise Refused(Status.WRITE_ERROR) from None
        for row in range(rows.shape[0]):  # in order, as rows may overlap
            target[row] = rows[row]
        self.forget(address, (rows.shape[0] - 1) * stride + rows.shape[1])

    def _rows(self, address: int, rows: int, row_bytes: int, stride: int) -> Matrix:
        """Return a view (rows, row_bytes) of the memory."""
        start = address & (1 << self._config.address_bits) - 1
        span = self._memory.view(start, (rows - 1) * stride + row_bytes)
        return np.lib.stride_tricks.as_strided(span, (rows, row_bytes), (stride, 1))
