"""The engines of the emulated overlay: checks of the hardware, arithmetic of the golden models."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ciuic import reference
from ciuic.abi import ATTENTION_ROW, PARAMETERS, Flag, Format, Opcode, OverlayConfig, Status
from ciuic.abi.descriptors import ALIGNED, GEMM_MAX_K, MAX_SIZE
from ciuic.abi.numerics import MULTIPLIER_BITS, W4_MAX_K, SoftmaxScale
from ciuic.reference.packing import blocks

from . import cycle_model
from .cycle_model import Work
from .gemm_cycles import Job
from .memory import AccessError
from .memory_timing import MemoryTiming

Descriptor = dict[str, int]
Matrix = npt.NDArray[Any]

SCORE_DTYPES: dict[int, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT16: np.int16,
    Format.INT8: np.int8,
}
RESULT_DTYPES: dict[int, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT8: np.int8,
}
RESULT_FORMATS = (Format.Q0_16, Format.Q0_8)


class WeightKey(NamedTuple):
    """Which packed weights, and how they lie in memory."""

    address: int
    stride: int
    k: int
    n: int
    w4: bool


class Weights(NamedTuple):
    """Unpacked weights (k, n), and the scales (groups, n) of INT4."""

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.int16] | None


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
    timing
        How fast that memory is.
    """

    def __init__(
        self, config: OverlayConfig, memory: Memory, timing: MemoryTiming | None = None
    ) -> None:
        self._config = config
        self._timing = timing or MemoryTiming()
        self._memory = memory
        self._weights: dict[WeightKey, Weights] = {}

    def run(self, descriptor: Descriptor) -> tuple[Status, Work]:
        """Run a descriptor; return how it ended and what it cost."""
        try:
            self._check(descriptor)
            engine = {
                Opcode.GEMM: self._gemm,
                Opcode.SOFTMAX: self._softmax,
                Opcode.ATTENTION: self._attention,
                Opcode.COPY: self._copy,
                Opcode.NOP: self._nop,
            }[Opcode(descriptor["opcode"])]
            return Status.OK, engine(descriptor)
        except Refused as refused:
            return refused.status, Work(0)

    def gemm_job(self, descriptor: Descriptor) -> Job | None:
        """Return what the time of a descriptor depends on, if it is a GEMM that will run."""
        if descriptor["opcode"] != Opcode.GEMM:
            return None
        try:
            self._check(descriptor)
            self._check_gemm(descriptor)
        except Refused:
            return None
        return _job(descriptor)

    def forget(self, address: int, nbytes: int) -> None:
        """Drop what was derived from bytes that are about to change."""
        for key in list(self._weights):  # a thread that flushes other buffers may do so meanwhile
            if self._overlaps(key, address, nbytes):
                self._weights.pop(key, None)

    def _overlaps(self, key: WeightKey, address: int, nbytes: int) -> bool:
        starts = (key.address + port * key.stride for port in range(self._config.ports))
        stripe = self._stripe_bytes(key)
        return any(start < address + nbytes and address < start + stripe for start in starts)

    def _stripe_bytes(self, key: WeightKey) -> int:
        nbytes = reference.packed_nbytes(key.k, key.n, self._config, w4=key.w4)
        return nbytes // self._config.ports

    def _check(self, descriptor: Descriptor) -> None:
        opcodes = [one.value for one in Opcode if one is not Opcode.ATTENTION]
        if self._config.attention:
            opcodes.append(Opcode.ATTENTION)
        if descriptor["opcode"] not in opcodes:
            raise Refused(Status.BAD_OPCODE)
        if any(descriptor[name] % self._config.alignment for name in ALIGNED):
            raise Refused(Status.BAD_ALIGNMENT)

    def _nop(self, descriptor: Descriptor) -> Work:
        return cycle_model.copy(self._config, self._timing, 0)

    def _copy(self, descriptor: Descriptor) -> Work:
        nbytes = descriptor["n"]
        if nbytes:
            source = self._read(descriptor["a_addr"], 1, nbytes, nbytes)
            self._write(descriptor["o_addr"], nbytes, source)
        return cycle_model.copy(self._config, self._timing, nbytes)

    def _gemm(self, descriptor: Descriptor) -> Work:
        self._check_gemm(descriptor)
        m, k, n = (descriptor[name] for name in ("m", "k", "n"))
        w4 = bool(descriptor["flags"] & Flag.W4)
        activations = self._read(descriptor["a_addr"], m, k, descriptor["a_stride"]).view(np.int8)
        weights = self._unpacked(WeightKey(descriptor["w_addr"], descriptor["w_stride"], k, n, w4))
        if weights.scales is None:
            sums = reference.gemm(activations, weights.values)
        else:
            sums = reference.gemm_w4(activations, weights.values, weights.scales)
        result = reference.output_stage(
            sums,
            parameters=self._parameters(descriptor),
            residual=self._residual(descriptor),
            requantize=descriptor["out_format"] == Format.INT8,
        )
        self._write(descriptor["o_addr"], descriptor["o_stride"], result.view(np.uint8))
        return cycle_model.gemm(self._config, self._timing, _job(descriptor))

    def _check_gemm(self, descriptor: Descriptor) -> None:
        config = self._config
        flags, out_format = descriptor["flags"], descriptor["out_format"]
        m, k, n = (descriptor[name] for name in ("m", "k", "n"))
        max_k = W4_MAX_K if flags & Flag.W4 else GEMM_MAX_K
        if not (0 < m <= MAX_SIZE and 0 < k <= max_k and 0 < n <= MAX_SIZE):
            raise Refused(Status.BAD_SIZE)
        requantize = out_format == Format.INT8
        if (
            out_format not in RESULT_DTYPES
            or (requantize and not (flags & Flag.PARAMETERS and config.int8_results))
            or (flags & Flag.W4 and not config.w4)
        ):
            raise Refused(Status.BAD_FORMAT)

    def _parameters(self, descriptor: Descriptor) -> reference.ColumnParameters | None:
        if not descriptor["flags"] & Flag.PARAMETERS:
            return None
        n = descriptor["n"]
        raw = self._read(descriptor["p_addr"], 1, n * PARAMETERS.nbytes, 0)
        records = raw.reshape(n, PARAMETERS.nbytes)
        fields = {field.name: field for field in PARAMETERS.fields}

        def column(name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
            field = fields[name]
            part = records[:, field.offset : field.offset + field.bits // 8]
            return np.ascontiguousarray(part).view(dtype).reshape(n)

        return reference.ColumnParameters(
            column("bias", "<i4"), column("multiplier", "<u2"), column("shift", "u1")
        )

    def _residual(self, descriptor: Descriptor) -> npt.NDArray[np.signedinteger[Any]] | None:
        if not descriptor["flags"] & Flag.RESIDUAL:
            return None
        dtype = RESULT_DTYPES[descriptor["out_format"]]
        row_bytes = descriptor["n"] * np.dtype(dtype).itemsize
        raw = self._read(descriptor["r_addr"], descriptor["m"], row_bytes, descriptor["r_stride"])
        return raw.view(dtype)

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
        lengths = reference.valid_lengths(
            rows,
            cols,
            row_offset=descriptor["row_offset"] if descriptor["flags"] & Flag.CAUSAL else None,
            lengths=self._lengths(descriptor),
        )
        result = reference.softmax(
            raw.view(dtype),
            scale=scale,
            out=out_format,
            lengths=lengths,
        )
        self._write(descriptor["o_addr"], descriptor["o_stride"], result.view(np.uint8))
        return cycle_model.softmax(
            self._config,
            self._timing,
            lengths,
            cols,
            in_format,
            out_format,
            listed=bool(descriptor["flags"] & Flag.LENGTHS),
        )

    def _attention(self, descriptor: Descriptor) -> Work:
        config = self._config
        m, k, n, d_v = (descriptor[name] for name in ("m", "k", "n", "d_v"))
        if not (
            0 < m <= config.accumulator_rows
            and all(0 < size <= GEMM_MAX_K for size in (k, n, d_v))
            and m * blocks(k, config.rows) <= config.bank_words
            and m * blocks(d_v, config.cols) <= config.attention_rows
        ):
            raise Refused(Status.BAD_SIZE)
        if descriptor["out_format"] != Format.INT16:
            raise Refused(Status.BAD_FORMAT)
        queries = self._read(descriptor["a_addr"], m, k, descriptor["a_stride"]).view(np.int8)
        nbytes = m * ATTENTION_ROW.nbytes
        records = self._read(descriptor["p_addr"], 1, nbytes, 0).view("<u4").reshape(m, 2)
        tiles = blocks(k, config.rows), blocks(d_v, config.cols), blocks(n, config.cols)
        result = reference.attention(
            queries,
            reference.unpack_keys(
                self._stripes(descriptor, "w", tiles[0] * tiles[2]), n, k, config
            ),
            reference.unpack_values(
                self._stripes(descriptor, "r", tiles[1] * tiles[2]), n, d_v, config
            ),
            multipliers=records[:, 0] & (1 << MULTIPLIER_BITS) - 1,
            shifts=records[:, 0] >> 24,
            lengths=records[:, 1],
            block=config.cols,
        )
        self._write(descriptor["o_addr"], descriptor["o_stride"], result.view(np.uint8))
        return cycle_model.attention(config, self._timing, m, k, n, d_v)

    def _stripes(self, descriptor: Descriptor, of: str, tiles: int) -> npt.NDArray[np.uint8]:
        """Return the stripes of tiles of keys or values."""
        ports = self._config.ports
        nbytes = tiles * self._config.tile_bytes // ports
        address, stride = descriptor[f"{of}_addr"], descriptor[f"{of}_stride"]
        return np.concatenate(
            [self._read(address + port * stride, 1, nbytes, nbytes) for port in range(ports)]
        )

    def _lengths(self, descriptor: Descriptor) -> npt.NDArray[np.uint32] | None:
        if not descriptor["flags"] & Flag.LENGTHS:
            return None
        nbytes = 4 * descriptor["m"]
        return self._read(descriptor["p_addr"], 1, nbytes, nbytes).view(np.uint32).reshape(-1)

    def _unpacked(self, key: WeightKey) -> Weights:
        weights = self._weights.get(key)
        if weights is None:
            stripe = self._stripe_bytes(key)
            stripes = [
                self._read(key.address + port * key.stride, 1, stripe, stripe)
                for port in range(self._config.ports)
            ]
            packed = np.concatenate(stripes)
            if key.w4:
                values, scales = reference.unpack_weights_w4(packed, key.k, key.n, self._config)
                weights = Weights(np.ascontiguousarray(values), scales)
            else:
                values = reference.unpack_weights(packed, key.k, key.n, self._config)
                weights = Weights(np.ascontiguousarray(values), None)
            self._weights[key] = weights
        return weights

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


def _job(descriptor: Descriptor) -> Job:
    flags = descriptor["flags"]
    return Job(
        m=descriptor["m"],
        k=descriptor["k"],
        n=descriptor["n"],
        w4=bool(flags & Flag.W4),
        parameters=bool(flags & Flag.PARAMETERS),
        residual=bool(flags & Flag.RESIDUAL),
        requantize=descriptor["out_format"] == Format.INT8,
    )
