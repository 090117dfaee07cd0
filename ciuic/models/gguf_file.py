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
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

from ciuic.errors import ModelFormatError

from .tensor_source import read_rows

MAGIC = b"GGUF"
VERSIONS = (2, 3)
DEFAULT_ALIGNMENT = 32  # bytes; the key general.alignment overrides it
MAX_DIMENSIONS = 4
SUPPORTED = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")

# Value types of the metadata: number in the file -> struct format of one little-endian value.
_SCALARS = {
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
_STRING, _ARRAY = 8, 9

Value = bool | int | float | str | list["Value"]


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


class GgufFile:
    """An open GGUF file.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    metadata
        Keys and values of the header.
    tensors
        What tensors there are, by name.

    Raises
    ------
    ModelFormatError
        If the file is missing, truncated, no GGUF file, or holds an unsupported tensor type.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._bytes = _map(self.path)
        try:
            header = _Header(self.path, self._bytes)
            self.metadata: dict[str, Value] = header.metadata
            self.tensors: dict[str, TensorInfo] = header.tensors
        except BaseException:
            self.close()
            raise

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor dequantized to float32, in its own shape, slowest dimension first."""
        info = self._info(name)
        return np.ascontiguousarray(self._decode(info, None).reshape(info.shape))

    def rows(self, name: str, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return rows of a matrix dequantized to float32, by their numbers."""
        return self._decode(self._info(name), ids)

    def _decode(
        self, info: TensorInfo, ids: npt.NDArray[np.intp] | None
    ) -> npt.NDArray[np.float32]:
        count = math.prod(info.shape[:-1])
        rows = read_rows(self._bytes, info.start, (count, info.nbytes // count), ids)
        values: npt.NDArray[np.float32]
        if info.type is GGMLQuantizationType.F32:
            values = rows.view("<f4").astype(np.float32)
        elif info.type is GGMLQuantizationType.F16:
            values = rows.view("<f2").astype(np.float32)
        else:
            with np.errstate(invalid="ignore", over="ignore"):  # found below
                values = dequantize(rows, info.type)
        if not np.isfinite(values).all():
            raise ModelFormatError(
                self.path, f"tensor {info.name} holds values that are not finite"
            )
        return values

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

    def _info(self, name: str) -> TensorInfo:
        if name not in self.tensors:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        return self.tensors[name]


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

    def __init__(self, path: Path, data: mmap.mmap) -> None:
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
        for _ in range(key_count):
            self._read_key()
        pending = [self._read_tensor() for _ in range(tensor_count)]
        self._place(pending)

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
        if kind == _STRING:
            return self._text(f"value of {key}")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _SCALARS:
            raise self._error(f"key {key} has the unknown type {kind}")
        value: Value = self._unpack(_SCALARS[kind], f"value of {key}")
        return value

    def _array(self, key: str) -> list[Value]:
        kind = self._unpack("I", f"type of {key}")
        if kind == _STRING:
            return [
                self._text(f"value of {key}")
                for _ in range(self._count(f"length of {key}", smallest=8))
            ]
        if kind not in _SCALARS:
            raise self._error(f"key {key} is an array of the unsupported type {kind}")
        code = _SCALARS[kind]
        count = self._count(f"length of {key}", smallest=struct.calcsize(code))
        raw = self._take(count * struct.calcsize(code), key)
        return list(struct.unpack(f"<{count}{code}", raw))

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

    def _place(self, pending: list[TensorInfo]) -> None:
        """Turn offsets into file offsets and check that all bytes are there."""
        alignment = self.metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise self._error(f"general.alignment must be a power of two, not {alignment!r}")
        data_start = -(-self._at // alignment) * alignment
        for info in pending:
            start = data_start + info.start
            if info.name in self.tensors:
                raise self._error(f"tensor {info.name} is there twice")
            if start + info.nbytes > self._size:
                raise self._error(
                    f"truncated: tensor {info.name} needs bytes up to {start + info.nbytes:,}, "
                    f"the file has {self._size:,}"
                )
            self.tensors[info.name] = TensorInfo(
                name=info.name, type=info.type, shape=info.shape, start=start, nbytes=info.nbytes
            )
