"""Reading GGUF files: metadata and tensors, checked before anything is used.

The whole header is read and checked when a file is opened: every count, string and tensor must
lie inside the file, so that nothing later reads outside it. Tensor bytes stay memory-mapped until
`GgufFile.tensor` dequantizes them to float32. Not covered: big-endian files, files in several
parts, writing.

The format is described in ggml's ``docs/gguf.md``; block formats come from the ``gguf`` package.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ciuic.errors import ModelFormatError

from .keys import Keys
from .tensor_source import Int4Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes; the key general.alignment overrides it
MAX_DIMENSIONS = 4
MOST_THINGS = 1 << 16  # keys, and tensors; each takes more memory than file
SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")

INT4_TYPES = {GGMLQuantizationType.Q4_0: 1, GGMLQuantizationType.Q4_1: 2}
"""Type -> float16 numbers before the integers of a block."""
INT4_BLOCK = 32

# Value types of the metadata: number in the file -> struct format of one little-endian value.
SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
STRING, ARRAY = 8, 9

LENGTH_NBYTES = 8  # before every string


class Strings(Sequence[str]):
    """An array of strings, kept as it is in the file: as objects they would take many times that.

    Parameters
    ----------
    raw
        The strings, each with its length before it.
    ends
        Where each ends in ``raw``.
    """

    def __init__(self, raw: bytes, ends: npt.NDArray[np.uint64]) -> None:
        self._raw = raw
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends.tolist():
            yield self._raw[start + LENGTH_NBYTES : end].decode()
            start = end

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        start = (int(self._ends[index - 1]) if index else 0) + LENGTH_NBYTES
        return self._raw[start : int(self._ends[index])].decode()


Value = bool | int | float | str | Strings | npt.NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """One tensor of a file.

    ``shape`` has the slowest dimension first; ``start`` is the first byte's offset in the file.
    """

    name: str
    type: GGMLQuantizationType
    shape: tuple[int, ...]
    start: int
    nbytes: int

    def item(self, index: int) -> TensorInfo:
        """Return one item of the slowest dimension; there must be another below it."""
        nbytes = self.nbytes // self.shape[0]
        return replace(self, shape=self.shape[1:], start=self.start + index * nbytes, nbytes=nbytes)

    def rows(self, start: int, stop: int) -> TensorInfo:
        """Return some items of the slowest dimension; there must be another below it."""
        nbytes = self.nbytes // self.shape[0]
        return replace(
            self,
            shape=(stop - start, *self.shape[1:]),
            start=self.start + start * nbytes,
            nbytes=(stop - start) * nbytes,
        )


class GgufFile:
    """An open GGUF file.

    Parameters
    ----------
    path
        The file.
    header_only
        Whether the tensors' bytes are not in it (`header`); they must not be read then.

    Attributes
    ----------
    metadata, architecture
        Keys and values of the header, and the one that names the family.
    keys
        Typed access to the family's own keys.
    tensors
        What tensors there are, by name.

    Raises
    ------
    ModelFormatError
        If the file is missing, truncated, no GGUF file, or holds an unsupported tensor type.
    """

    def __init__(self, path: str | Path, *, header_only: bool = False) -> None:
        self.path = Path(path)
        self._bytes = _map(self.path)
        try:
            header = _Header(self.path, self._bytes, header_only=header_only)
            self._header_nbytes = header.nbytes
            self.metadata: dict[str, Value] = header.metadata
            self.architecture = str(self.metadata.get("general.architecture"))
            self.keys = Keys(self.path, self.metadata, f"{self.architecture}.")
            self.tensors: dict[str, TensorInfo] = header.tensors
        except BaseException:
            self.close()
            raise

    def header(self) -> bytes:
        """Return the file up to where tensors begin; it opens as ``header_only``."""
        return self._bytes[: self._header_nbytes]

    @property
    def name(self) -> str:
        """Name of the model, for people."""
        return str(self.metadata.get("general.name", self.path.stem))

    @property
    def vocab_size(self) -> int:
        """Number of tokens."""
        tokens = self.metadata.get("tokenizer.ggml.tokens")
        if not isinstance(tokens, Strings):
            raise ModelFormatError(self.path, "key tokenizer.ggml.tokens must be a list of strings")
        return len(tokens)

    def tensor(self, name: str, item: int | None = None) -> npt.NDArray[np.float32]:
        """Return a tensor dequantized to float32, in its own shape, slowest dimension first.

        With ``item``, return (and read) only that item of the slowest of three dimensions.
        """
        return self._read(self._info(name, item))

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of a matrix dequantized to float32, without reading the others."""
        return self._read(self._info(name, None).rows(start, stop))

    def _read(self, info: TensorInfo) -> npt.NDArray[np.float32]:
        rows = self._rows(info)
        if info.type is GGMLQuantizationType.F32:
            values = rows.view("<f4").astype(np.float32)
        elif info.type is GGMLQuantizationType.F16:
            values = rows.view("<f2").astype(np.float32)
        else:
            with np.errstate(invalid="ignore", over="ignore"):  # found below
                values = dequantize(rows, info.type)
        self._check_finite(info.name, values)
        return np.ascontiguousarray(values.reshape(info.shape))

    def int4(self, name: str, item: int | None = None) -> Int4Tensor | None:
        """Return a matrix of type Q4_0 or Q4_1 in its own integers, or None of another type.

        A block is the scale and, of Q4_1, the smallest value, both float16; then 16 bytes, whose
        low halves are the first 16 integers. Both types count from 0; here the middle is 0.
        ``item`` as for `tensor`.
        """
        info = self._info(name, item)
        if info.type not in INT4_TYPES or len(info.shape) != 2:
            return None
        numbers = INT4_TYPES[info.type]
        n, k = info.shape
        blocks = self._rows(info).reshape(n, k // INT4_BLOCK, -1)
        floats = blocks[..., : 2 * numbers].view("<f2").astype(np.float32)  # (n, groups, numbers)
        self._check_finite(name, floats)
        halves = blocks[..., 2 * numbers :]
        values = np.concatenate([halves & 15, halves >> 4], axis=2).astype(np.int8) - np.int8(8)
        scales = floats[..., 0]
        offsets = floats[..., 1] + 8 * scales if numbers == 2 else None
        return Int4Tensor(values.reshape(n, k), scales, offsets)

    def close(self) -> None:
        """Release the file; tensors that were read stay valid."""
        self._bytes.close()

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _rows(self, info: TensorInfo) -> npt.NDArray[np.uint8]:
        """Return a tensor's bytes, a row for each of its slower dimensions."""
        # Bytes of our own: arrays over the map itself would keep it from being closed.
        raw = self._bytes[info.start : info.start + info.nbytes]
        return np.frombuffer(raw, np.uint8).reshape(math.prod(info.shape[:-1]), -1)

    def _check_finite(self, name: str, values: npt.NDArray[np.float32]) -> None:
        if not np.isfinite(values).all():
            raise ModelFormatError(self.path, f"tensor {name} holds values that are not finite")

    def _info(self, name: str, item: int | None = None) -> TensorInfo:
        if name not in self.tensors:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        info = self.tensors[name]
        return info if item is None else info.item(item)


def _map(path: Path) -> mmap.mmap:
    """Map a file for reading."""
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except ValueError as error:  # what mmap says to an empty file
        raise ModelFormatError(path, "the file is empty") from error
    except OSError as error:
        raise ModelFormatError(path, f"cannot be read ({error.strerror})") from error


class _Header:
    """A cursor over the header; its methods read one thing each and refuse to pass the end."""

    def __init__(self, path: Path, data: mmap.mmap, *, header_only: bool) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = 0
        self.metadata: dict[str, Value] = {}
        self.tensors: dict[str, TensorInfo] = {}
        if self._take(4, "magic number") != MAGIC:
            raise self._error("not a GGUF file (it does not begin with the letters GGUF)")
        version = self._unpack("I", "version")
        if version not in VERSIONS:
            raise self._error(f"GGUF version must be 2 or 3, not {version}")
        tensor_count = self._count("number of tensors", smallest=24)
        key_count = self._count("number of keys", smallest=13)
        if max(tensor_count, key_count) > MOST_THINGS:
            raise self._error(
                f"must have at most {MOST_THINGS:,} tensors and as many keys, "
                f"not {tensor_count:,} and {key_count:,}"
            )
        for _ in range(key_count):
            self._read_key()
        pending = [self._read_tensor() for _ in range(tensor_count)]
        self.nbytes = self._at
        self._place(pending, header_only=header_only)

    def _error(self, reason: str) -> ModelFormatError:
        return ModelFormatError(self._path, reason)

    def _take(self, count: int, what: str) -> bytes:
        end = self._at + count
        if end > self._size:
            raise self._error(
                f"truncated: the {what} needs bytes up to {end:,}, the file has {self._size:,}"
            )
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def _unpack(self, code: str, what: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize(code), what))[0]

    def _count(self, what: str, *, smallest: int) -> int:
        """Read a count of things that take at least ``smallest`` bytes each."""
        count: int = self._unpack("Q", what)
        if count > (self._size - self._at) // smallest:
            raise self._error(f"truncated: {what} is {count:,}, more than the file can hold")
        return count

    def _text(self, what: str) -> str:
        raw = self._take(self._count(f"length of a {what}", smallest=1), what)
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise self._error(f"a {what} is not UTF-8 (before byte {self._at:,})") from error

    def _read_key(self) -> None:
        key = self._text("key")
        if key in self.metadata:
            raise self._error(f"key {key} is there twice")
        self.metadata[key] = self._value(self._unpack("I", f"type of {key}"), key)

    def _value(self, kind: int, key: str) -> Value:
        if kind == STRING:
            return self._text(f"value of {key}")
        if kind == ARRAY:
            return self._array(key)
        if kind not in SCALARS:
            raise self._error(f"key {key} has the unknown type {kind}")
        value: Value = self._unpack(SCALARS[kind], f"value of {key}")
        return value

    def _array(self, key: str) -> Strings | npt.NDArray[Any]:
        kind = self._unpack("I", f"type of {key}")
        if kind == STRING:
            return self._strings(key)
        if kind not in SCALARS:
            raise self._error(f"key {key} is an array of the unsupported type {kind}")
        dtype = np.dtype("<" + SCALARS[kind])
        count = self._count(f"length of {key}", smallest=dtype.itemsize)
        return np.frombuffer(self._take(count * dtype.itemsize, key), dtype)

    def _strings(self, key: str) -> Strings:
        count = self._count(f"length of {key}", smallest=LENGTH_NBYTES)
        start, ends = self._at, np.empty(count, np.uint64)
        for index in range(count):
            self._text(f"value of {key}")
            ends[index] = self._at - start
        return Strings(self._data[start : self._at], ends)

    def _read_tensor(self) -> TensorInfo:
        """Return a tensor whose ``start`` still counts from the beginning of the data."""
        name = self._text("tensor name")
        dimensions = self._unpack("I", f"dimensions of {name}")
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise self._error(f"tensor {name} must have 1 to 4 dimensions, not {dimensions}")
        shape = tuple(self._unpack("Q", f"shape of {name}") for _ in range(dimensions))[::-1]
        type_ = self._tensor_type(name, self._unpack("I", f"type of {name}"))
        block_elements, block_bytes = GGML_QUANT_SIZES[type_]
        if shape[-1] % block_elements or 0 in shape:
            raise self._error(
                f"tensor {name} of type {type_.name} must have rows of whole blocks of "
                f"{block_elements}, not shape {shape}"
            )
        return TensorInfo(
            name=name,
            type=type_,
            shape=shape,
            start=self._unpack("Q", f"offset of {name}"),
            nbytes=math.prod(shape) // block_elements * block_bytes,
        )

    def _tensor_type(self, name: str, number: int) -> GGMLQuantizationType:
        try:
            type_ = GGMLQuantizationType(number)
        except ValueError as error:
            raise self._error(f"tensor {name} has the unknown type number {number}") from error
        if type_.name not in SUPPORTED:
            raise self._error(
                f"tensor {name} has type {type_.name}; supported are {', '.join(SUPPORTED)}"
            )
        return type_

    def _place(self, pending: list[TensorInfo], *, header_only: bool) -> None:
        """Turn offsets into file offsets and check that all bytes are there, if they should be."""
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise self._error(f"general.alignment must be a power of two, not {alignment!r}")
        data_start = -(-self._at // alignment) * alignment
        for info in pending:
            start = data_start + info.start
            if info.name in self.tensors:
                raise self._error(f"tensor {info.name} is there twice")
            if start + info.nbytes > self._size and not header_only:
                raise self._error(
                    f"truncated: tensor {info.name} needs bytes up to {start + info.nbytes:,}, "
                    f"the file has {self._size:,}"
                )
            self.tensors[info.name] = replace(info, start=start)
        self._refuse_overlaps()

    def _refuse_overlaps(self) -> None:
        """Refuse tensors that share bytes: a small file could ask for much memory that way."""
        for before, after in pairwise(sorted(self.tensors.values(), key=lambda info: info.start)):
            if after.start < before.start + before.nbytes:
                raise self._error(f"tensors {before.name} and {after.name} overlap")
