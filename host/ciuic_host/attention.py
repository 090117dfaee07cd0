"""Attention as numpy sees it: packed keys and values that stay on the device, and descriptors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt

from ciuic.abi import ATTENTION_ROW, DESCRIPTOR, Format, Opcode, OverlayConfig
from ciuic.abi.descriptors import GEMM_MAX_K
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import ShapeError
from ciuic.reference import pack_keys, pack_values
from ciuic.reference.packing import blocks

from .gemm import check_matrix
from .staging import Matrix, Staging
from .transport import Buffer, Transport

Role = Literal["keys", "values"]
ROW_DTYPE = np.dtype(
    {
        "names": ["scale", "length"],
        "formats": ["<u4", "<u4"],
        "offsets": [0, 4],
        "itemsize": ATTENTION_ROW.nbytes,
    }
)


@dataclass(frozen=True, eq=False)
class CacheHandle:
    """Packed keys or values of several heads in the device's memory; see `Overlay.new_cache`.

    Attributes
    ----------
    role
        "keys" or "values".
    heads, width
        How many heads there are, and elements of one row of a head.
    slots
        Rows that each head has room for.
    buffer
        Of (heads, ports, stripe_bytes).
    stripe_bytes
        What each port reads of a head, in bytes.
    """

    role: Role
    heads: int
    width: int
    slots: int
    buffer: Buffer
    stripe_bytes: int
    slot: ClassVar[bool] = False  # its buffer is its own, as that of weights need not be

    def address(self, head: int) -> int:
        """Return the device address of a head."""
        return self.buffer.device_address + head * (self.buffer.nbytes // self.heads)


def rows_at_a_time(config: OverlayConfig) -> int:
    """Return the rows of keys, and of values, that are packed as one block."""
    return config.cols  # which is ``rows`` too where there is attention


def head_nbytes(config: OverlayConfig, width: int, slots: int) -> int:
    """Return the bytes of one head's packed rows, all stripes together."""
    return blocks(slots, config.cols) * blocks(width, config.rows) * config.tile_bytes


def write_rows(
    transport: Transport,
    config: OverlayConfig,
    handle: CacheHandle,
    start: int,
    rows: npt.NDArray[np.int8],
) -> None:
    """Write rows (n, heads, width) from row ``start`` on, which begins a block.

    What is left of the last block becomes zero.

    Raises
    ------
    ShapeError
        If the rows do not fit the cache, or do not begin at a block.
    """
    if rows.ndim != 3 or rows.dtype != np.int8 or rows.shape[1:] != (handle.heads, handle.width):
        raise ShapeError(
            f"rows must be int8 (n, {handle.heads}, {handle.width}), not {rows.dtype} {rows.shape}"
        )
    block = rows_at_a_time(config)
    if start % block or not 0 <= start <= handle.slots - len(rows):
        raise ShapeError(
            f"rows must begin at a multiple of {block} and end by row {handle.slots}, "
            f"not begin at {start} and end at {start + len(rows)}"
        )
    if not len(rows):
        return
    pack = pack_keys if handle.role == "keys" else pack_values
    contents = handle.buffer.array.reshape(handle.heads, config.ports, handle.stripe_bytes)
    at = head_nbytes(config, handle.width, start) // config.ports
    for head in range(handle.heads):
        stripes = pack(np.ascontiguousarray(rows[:, head]), config)
        stop = at + stripes.shape[1]
        contents[head, :, at:stop] = stripes
        for port in range(config.ports):
            first = (head * config.ports + port) * handle.stripe_bytes
            transport.flush(handle.buffer, first + at, first + stop)


@dataclass(frozen=True, kw_only=True, eq=False)
class Attention:
    """Attention of the rows that share one head of keys and values; see `Overlay.attentions`.

    Attributes
    ----------
    queries
        INT8 (m, k).
    scales
        What multiplies each row's scores before exp, (m,).
    lengths
        How many keys, from the first on, each row sees, (m,); a row that sees none is zeros.
    keys, values
        What the overlay holds.
    head
        Which of their heads.
    count
        Keys that there are; no length may be above.
    """

    queries: npt.NDArray[np.int8]
    scales: Sequence[SoftmaxScale]
    lengths: npt.NDArray[np.int64]
    keys: CacheHandle
    values: CacheHandle
    head: int
    count: int

    def parts(self, config: OverlayConfig) -> int:
        """Return how many descriptors it takes."""
        return len(list(parts(config, *self.sizes)))

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Queries, and widths of keys and of values."""
        return len(self.queries), self.keys.width, self.values.width

    def check(self, config: OverlayConfig) -> None:
        """Raise `ShapeError` if an overlay cannot run it."""
        check_matrix("queries", self.queries, ("int8",))
        m, k = self.queries.shape
        if (self.keys.role, self.values.role) != ("keys", "values"):
            raise ShapeError(
                f"caches must be of keys and of values, not {self.keys.role} and {self.values.role}"
            )
        if k != self.keys.width:
            raise ShapeError(f"queries must have {self.keys.width} columns, not {k}")
        heads = min(self.keys.heads, self.values.heads)
        if not 0 <= self.head < heads:
            raise ShapeError(f"head must be from 0 to {heads - 1}, not {self.head!r}")
        most = min(self.keys.slots, self.values.slots, GEMM_MAX_K)
        if not 0 < self.count <= most:
            raise ShapeError(f"count must be from 1 to {most} keys, not {self.count!r}")
        if len(self.scales) != m or self.lengths.shape != (m,):
            raise ShapeError(
                f"scales and lengths must be of {m} rows, not {len(self.scales)} and "
                f"of shape {self.lengths.shape}"
            )
        if self.lengths.min() < 0 or self.lengths.max() > self.count:
            raise ShapeError(
                f"lengths must be from 0 to {self.count}, "
                f"not {self.lengths.min()} to {self.lengths.max()}"
            )
        if not most_rows(config, k, self.values.width):
            raise ShapeError(
                f"heads must be narrower on overlay {config.name!r}, not {k} and "
                f"{self.values.width} wide"
            )


def most_rows(config: OverlayConfig, k: int, d_v: int) -> int:
    """Return the most queries that one descriptor takes; 0 if heads are too wide."""
    return min(
        config.accumulator_rows,
        config.bank_words // blocks(k, config.rows),
        config.attention_rows // blocks(d_v, config.cols),
    )


@dataclass(frozen=True)
class StagedAttention:
    """Part of an attention whose operands are on the device: its descriptor and its results."""

    descriptor: bytes
    result: Matrix


def stage(
    calls: Sequence[Attention], config: OverlayConfig, staging: Staging
) -> list[list[StagedAttention]]:
    """Put the operands of attentions into the device's memory; return the parts of each."""
    cut = [(call, part) for call in calls for part in parts(config, *call.sizes)]
    needed = [
        shape for call, part in cut for shape in shapes(part.stop - part.start, *call.sizes[1:])
    ]
    matrices = iter(staging.matrices(*needed))
    staged: dict[int, list[StagedAttention]] = {id(call): [] for call in calls}
    for call, part in cut:
        operands = [next(matrices) for _ in range(3)]
        staged[id(call)].append(_stage(call, part, operands))
    return [staged[id(call)] for call in calls]


def parts(config: OverlayConfig, m: int, k: int, d_v: int) -> Iterator[slice]:
    """Yield which of m queries a descriptor takes each."""
    most = most_rows(config, k, d_v)
    for start in range(0, m, most):
        yield slice(start, min(start + most, m))


def keys_read(lengths: npt.NDArray[np.int64]) -> int:
    """Return how many keys are read for rows that see so many (m,): no more than one row sees."""
    return max(1, int(lengths.max()))


def shapes(m: int, k: int, d_v: int) -> list[tuple[int, int]]:
    """Return (rows, row_bytes) of queries, records of rows, and results of a descriptor."""
    return [(m, k), (1, m * ATTENTION_ROW.nbytes), (m, 2 * d_v)]


def _stage(call: Attention, part: slice, matrices: list[Matrix]) -> StagedAttention:
    queries, records, result = matrices
    queries.put(call.queries[part])
    rows = np.zeros(part.stop - part.start, ROW_DTYPE)
    shift_at = next(field.offset for field in ATTENTION_ROW.fields if field.name == "shift")
    rows["scale"] = [one.multiplier | one.shift << 8 * shift_at for one in call.scales[part]]
    rows["length"] = call.lengths[part]
    records.put(rows.view(np.uint8).reshape(1, -1))
    descriptor = DESCRIPTOR.pack(
        opcode=Opcode.ATTENTION,
        out_format=Format.INT16,
        a_addr=queries.address,
        a_stride=queries.stride,
        w_addr=call.keys.address(call.head),
        w_stride=call.keys.stripe_bytes,
        r_addr=call.values.address(call.head),
        r_stride=call.values.stripe_bytes,
        p_addr=records.address,
        o_addr=result.address,
        o_stride=result.stride,
        m=len(rows),
        k=call.keys.width,
        n=keys_read(call.lengths[part]),
        d_v=call.values.width,
    )
    return StagedAttention(descriptor, result)
