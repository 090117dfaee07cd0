"""Descriptors and completion records: what the overlay is asked to do and what it answers.

A descriptor is `DESCRIPTOR.nbytes` long and lies in a ring in memory; one descriptor is one tensor
operation. For each the overlay writes one completion record to the same index of a second ring.
Both are little-endian. Fields that an opcode does not use must be zero.

==========  ==================================================================================
GEMM        O[m, n] = A[m, k] @ W[k, n].  A: INT8, rows ``a_stride`` bytes apart, readable up to
            whole beats.  W: INT8, packed by `ciuic.reference.packing.pack_weights`, or with
            ``Flag.W4`` INT4 with group scales, packed by `pack_weights_w4`; one stripe for each
            port, ``w_stride`` bytes apart.  O: rows ``o_stride`` bytes apart; bytes outside the
            m x n results are not touched.  ``out_format`` INT32: sum + bias + residual, wrapping
            (with W4 saturating first).  INT8: requantized sum + bias, plus residual, saturating.
            ``Flag.PARAMETERS``: n records of `PARAMETERS` at ``p_addr``; without, no bias, and
            INT32 only.  ``Flag.RESIDUAL``: a matrix like O at ``r_addr``, ``r_stride``.
SOFTMAX     O[m, n] = softmax over each row of A[m, n] times a scale.  Formats ``in_format`` and
            ``out_format``; the scale is ``multiplier`` and ``shift``
            (`numerics.SoftmaxScale`).  Row i has n valid elements; with ``Flag.CAUSAL`` at most
            row_offset + i + 1 of them, with ``Flag.LENGTHS`` at most as many as element i of
            the m UINT32 at ``p_addr`` says, readable up to a whole beat; elements beyond, and
            rows without any, are zero.
ATTENTION   O[m, d_v] = softmax(scale * Q[m, k] @ K[n, k].T) @ V[n, d_v], one head.  Q: INT8 like A.
            K: INT8 at ``w_addr``, packed by `ciuic.reference.packing.pack_keys`, and V: INT8 at
            ``r_addr``, packed by `pack_values`; stripes ``w_stride`` and ``r_stride`` bytes apart.
            ``p_addr``: m records of `ATTENTION_ROW`, readable up to a whole beat: each row's scale
            (`numerics.SoftmaxScale`), and how many keys, from the first on, it sees; a row that
            sees none is zero.  O: INT16, V over 2**`numerics.ATTENTION_FRACTION`.  Sizes are
            limited by `OverlayConfig.attention_rows`.
COPY        ``n`` bytes from ``a_addr`` to ``o_addr``.
NOP         Nothing; completes in order.
==========  ==================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

GEMM_MAX_K = 2**17 - 1  # products of INT8 are at most 2**14: an INT32 sum never overflows
MAX_SIZE = 2**24 - 1  # largest m, n or number of rows


class Opcode(IntEnum):
    """Operations of the overlay."""

    NOP = 0
    GEMM = 1
    SOFTMAX = 2
    COPY = 3
    ATTENTION = 4


class Flag(IntFlag):
    """Options of a descriptor."""

    CAUSAL = 1
    W4 = 2
    PARAMETERS = 4
    RESIDUAL = 8
    LENGTHS = 16


class Format(IntEnum):
    """Element formats in memory."""

    INT32 = 0
    INT16 = 1
    INT8 = 2
    Q0_16 = 3
    Q0_8 = 4

    @property
    def nbytes(self) -> int:
        """Bytes of one element."""
        return {0: 4, 1: 2, 2: 1, 3: 2, 4: 1}[self.value]


class Status(IntEnum):
    """How a descriptor ended. All but `OK` halt the overlay until a soft reset."""

    PENDING = 0
    OK = 1
    BAD_OPCODE = 2
    BAD_ALIGNMENT = 3
    BAD_SIZE = 4
    BAD_FORMAT = 5
    READ_ERROR = 6
    WRITE_ERROR = 7
    WATCHDOG = 8


STATUS_REASON: dict[Status, str] = {
    Status.PENDING: "it has not completed",
    Status.OK: "it completed",
    Status.BAD_OPCODE: "the overlay does not know the opcode",
    Status.BAD_ALIGNMENT: "an address or stride is not a multiple of the bus width",
    Status.BAD_SIZE: "a dimension is zero or more than the overlay can hold",
    Status.BAD_FORMAT: "the overlay does not know the element format, or cannot use the scale",
    Status.READ_ERROR: "the memory answered a read with an error",
    Status.WRITE_ERROR: "the memory answered a write with an error",
    Status.WATCHDOG: "the memory did not answer in time",
}


@dataclass(frozen=True)
class Field:
    """One unsigned field of a record: where it starts (byte) and how wide it is (bits)."""

    name: str
    offset: int
    bits: int


@dataclass(frozen=True)
class Record:
    """A fixed little-endian layout of unsigned fields."""

    nbytes: int
    fields: tuple[Field, ...]

    def __post_init__(self) -> None:
        end = 0
        for field in self.fields:
            if field.offset < end or field.offset % (field.bits // 8):
                raise ValueError(f"field {field.name} must not overlap and be aligned to its size")
            end = field.offset + field.bits // 8
        if end > self.nbytes:
            raise ValueError(f"fields must fit into {self.nbytes} bytes, not {end}")

    def pack(self, **values: int) -> bytes:
        """Return the record's bytes; fields not named are zero."""
        known = {field.name: field for field in self.fields}
        data = bytearray(self.nbytes)
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"field must be one of {sorted(known)}, not {name!r}")
            field = known[name]
            if not 0 <= value < 1 << field.bits:
                raise ValueError(f"{name} must fit into {field.bits} bits, not {value!r}")
            width = field.bits // 8
            data[field.offset : field.offset + width] = int(value).to_bytes(width, "little")
        return bytes(data)

    def unpack(self, data: bytes | memoryview) -> dict[str, int]:
        """Return the fields of a record's bytes."""
        return {
            field.name: int.from_bytes(
                data[field.offset : field.offset + field.bits // 8], "little"
            )
            for field in self.fields
        }


DESCRIPTOR = Record(
    128,
    (
        Field("opcode", 0, 8),  # Opcode
        Field("flags", 1, 8),  # Flag
        Field("tag", 2, 16),  # copied into the completion record
        Field("after", 4, 16),  # wait for the descriptor this many places before; 0 waits for none
        Field("a_addr", 8, 64),  # activations, scores or source
        Field("w_addr", 16, 64),  # packed weights
        Field("o_addr", 24, 64),  # result
        Field("p_addr", 32, 64),  # parameters of columns, lengths of rows
        Field("r_addr", 40, 64),  # residual, or packed values
        Field("m", 56, 32),  # rows
        Field("k", 60, 32),  # shared dimension
        Field("n", 64, 32),  # columns, or bytes of a copy
        Field("a_stride", 68, 32),  # bytes between rows of A
        Field("o_stride", 72, 32),  # bytes between rows of O
        Field("in_format", 80, 8),  # Format
        Field("out_format", 81, 8),  # Format
        Field("shift", 82, 8),  # softmax scale, see numerics.SoftmaxScale
        Field("multiplier", 84, 32),
        Field("row_offset", 88, 32),  # causal mask: valid elements of row 0, less one
        Field("w_stride", 92, 32),  # bytes between the stripes of W
        Field("r_stride", 96, 32),  # bytes between rows of the residual, or stripes of V
        Field("d_v", 100, 32),  # columns of V
    ),
)

# Fields that must be multiples of the alignment, whatever the opcode.
ALIGNED = (
    *("a_addr", "w_addr", "o_addr", "p_addr", "r_addr"),
    *("a_stride", "o_stride", "w_stride", "r_stride"),
)

PARAMETERS = Record(
    8,
    (
        Field("bias", 0, 32),  # INT32
        Field("multiplier", 4, 16),
        Field("shift", 6, 8),
    ),
)

ATTENTION_ROW = Record(
    8,
    (
        Field("multiplier", 0, 24),
        Field("shift", 3, 8),
        Field("length", 4, 32),
    ),
)

COMPLETION = Record(
    64,
    (
        Field("status", 0, 32),  # Status
        Field("index", 4, 32),  # number of the descriptor since the last reset
        Field("fetched", 8, 64),  # cycle counter when the descriptor had been read
        Field("started", 16, 64),  # ... when its engine started
        Field("finished", 24, 64),  # ... when its last write was acknowledged
        Field("beats_read", 32, 32),  # beats of its engine on the read channel
        Field("beats_written", 36, 32),  # beats of its engine on the write channel
        Field("busy", 40, 32),  # cycles in which the array (or the softmax lanes) took data
        Field("tag", 44, 16),  # copied from the descriptor
    ),
)
