"""The file of a converted model: weights in the very form that devices take, in one safetensors.

A weight is one tensor or several, the later ones under its name and a suffix:

- a vector, table or float32 matrix as it is;
- an INT8 matrix by rows n, I8 (n, k), its scales F32 (n,) and the block of its rotation I8 (1,);
- an INT4 matrix by rows n, U8 (n, k / 2) with the even column in the low bits, its group scales
  I16 (n, groups), units F32 (n,) and, if it has such, offsets I32 (n, groups).

Weights read from it are the mapped file itself, and nothing is read before it is used; only INT4
matrices are unpacked, to a byte an integer. So such a file must not be changed in place while a
model is loaded from it; replacing it by another is safe.

The format of the file is described in https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ciuic.devices import Weight
from ciuic.errors import ModelFormatError, ShapeError
from ciuic.quantize import FileExtent, QuantizedMatrix
from ciuic.quantize_int4 import GroupQuantizedMatrix
from ciuic.tensor import CiuicTensor

SCALES, BLOCK, UNITS, OFFSETS = ".scales", ".block", ".units", ".offsets"
DTYPES: dict[str, np.dtype[Any]] = {
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
}
ALIGNMENT = 64  # bytes; of the first tensor
PARTS = 4  # of a weight, at most
ENTRY_NBYTES = 128  # of a tensor in the header, its name and shape left out, at most

Array = npt.NDArray[Any]


def parts_of(name: str, weight: Weight) -> Iterator[tuple[str, Array]]:
    """Yield what is stored of a weight: names and arrays."""
    if isinstance(weight, CiuicTensor):
        yield name, weight.numpy()
    elif isinstance(weight, QuantizedMatrix):
        yield name, weight.values.T
        yield name + SCALES, weight.scales
        yield name + BLOCK, np.array([weight.block], np.int8)
    else:
        yield name, _packed(weight.values.T)
        yield name + SCALES, weight.scales.T
        yield name + UNITS, weight.units
        if weight.offsets is not None:
            yield name + OFFSETS, weight.offsets.T


def _packed(values: Array) -> npt.NDArray[np.uint8]:
    """Return INT4 rows (n, k) with two integers a byte."""
    n, k = values.shape
    nibbles = np.zeros((n, k + k % 2), np.uint8)
    nibbles[:, :k] = values.astype(np.uint8) & 15
    packed: npt.NDArray[np.uint8] = nibbles[:, ::2] | nibbles[:, 1::2] << 4
    return packed


def _unpacked(packed: npt.NDArray[np.uint8], k: int) -> npt.NDArray[np.int8]:
    """Return INT4 rows (n, k) with an integer a byte."""
    pairs = np.stack([packed << 4, packed & 240], axis=2).view(np.int8) >> 4
    return pairs.reshape(len(packed), -1)[:, :k]


class WeightWriter:
    """Writes a file of weights, one after another, and its sha256.

    Parameters
    ----------
    file
        Open for writing and reading, empty.
    names
        Of all weights to come; room for the header is reserved by them.
    """

    def __init__(self, file: BinaryIO, names: list[str]) -> None:
        self._file = file
        most = sum(PARTS * (len(name) + len(OFFSETS) + ENTRY_NBYTES) for name in names)
        self._data_start = -(-(8 + most) // ALIGNMENT) * ALIGNMENT
        self._entries: dict[str, dict[str, Any]] = {}
        file.seek(self._data_start)

    def write(self, name: str, weight: Weight) -> None:
        """Append a weight."""
        for part, array in parts_of(name, weight):
            dtype = next(key for key, kind in DTYPES.items() if kind == array.dtype)
            start = self._file.tell() - self._data_start
            self._file.write(np.ascontiguousarray(array).data)
            self._entries[part] = {
                "dtype": dtype,
                "shape": list(array.shape),
                "data_offsets": [start, start + array.nbytes],
            }

    def finish(self) -> str:
        """Write the header and return the sha256 of the whole file."""
        header = json.dumps(self._entries).encode().ljust(self._data_start - 8)
        self._file.seek(0)
        self._file.write(struct.pack("<Q", len(header)) + header)
        self._file.flush()
        return sha256_of(self._file)


def sha256_of(file: BinaryIO) -> str:
    """Return the sha256 of an open file."""
    digest = hashlib.sha256()
    file.seek(0)
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()


class _Stored(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int


class WeightFile:
    """An open file of weights.

    Parameters
    ----------
    path
        The file; it stays mapped as long as a weight of it is used.

    Raises
    ------
    ModelFormatError
        If it is missing, broken, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored: dict[str, _Stored] = {}
        try:
            # Its header is checked by the package before anything here looks at it.
            with safe_open(path, framework="np"):
                pass
            with path.open("rb") as file:
                self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (SafetensorError, ValueError) as error:
            raise ModelFormatError(path, f"not a whole safetensors file ({error})") from error
        except OSError as error:
            raise ModelFormatError(path, f"cannot be read ({error.strerror or error})") from error
        (header_nbytes,) = struct.unpack("<Q", self._data[:8])
        header: dict[str, Any] = json.loads(self._data[8 : 8 + header_nbytes])
        header.pop("__metadata__", None)
        for name, entry in header.items():
            if entry["dtype"] not in DTYPES:
                raise ModelFormatError(
                    path,
                    f"tensor {name} must have a type of {', '.join(DTYPES)}, not {entry['dtype']}",
                )
            start = 8 + header_nbytes + entry["data_offsets"][0]
            self._stored[name] = _Stored(DTYPES[entry["dtype"]], tuple(entry["shape"]), start)

    def weight(self, name: str, shape: tuple[int, ...]) -> Weight:
        """Return a weight that must have this shape: (k, n) of a matrix, any other as it is.

        Raises
        ------
        ModelFormatError
            If it is missing or does not fit.
        """
        values = self._array(name)
        weight: Weight
        try:
            if values.dtype == np.float32:
                weight = CiuicTensor.adopt(values)
            elif values.dtype == np.int8 and values.ndim == len(shape) == 2:
                weight = self._int8(name, values)
            elif values.dtype == np.uint8 and len(shape) == 2:
                weight = self._int4(name, values, shape)
            else:
                raise ModelFormatError(
                    self.path, f"{name} must be float32, or a matrix in integers"
                )
        except ShapeError as error:
            raise ModelFormatError(self.path, f"{name}: {error}") from error
        if weight.shape != shape:
            raise ModelFormatError(
                self.path, f"weight {name} must have shape {shape}, not {weight.shape}"
            )
        return weight

    def release_pages(self) -> None:
        """Take what is mapped of the file out of this process; it comes again when it is read."""
        self._data.madvise(mmap.MADV_DONTNEED)

    def _int8(self, name: str, values: Array) -> QuantizedMatrix:
        block = self._array(name + BLOCK)
        if block.dtype != np.int8 or block.shape != (1,):
            raise ModelFormatError(self.path, f"the block of {name} must be one INT8 number")
        extent = FileExtent(self.path, self._stored[name].start)
        return QuantizedMatrix(values.T, self._finite(name + SCALES), int(block[0]), extent)

    def _int4(self, name: str, packed: Array, shape: tuple[int, ...]) -> GroupQuantizedMatrix:
        k, n = shape
        if packed.shape != (n, -(-k // 2)):
            raise ModelFormatError(
                self.path, f"{name} must have shape {(n, -(-k // 2))}, not {packed.shape}"
            )
        values = np.ascontiguousarray(_unpacked(packed, k).T)
        offsets = self._array(name + OFFSETS).T if name + OFFSETS in self._stored else None
        scales, units = self._array(name + SCALES).T, self._finite(name + UNITS)
        return GroupQuantizedMatrix(values, scales, units, offsets)

    def _finite(self, name: str) -> Array:
        values = self._array(name)
        if values.dtype != np.float32 or not np.isfinite(values).all():
            raise ModelFormatError(self.path, f"{name} must be float32 and finite")
        return values

    def _array(self, name: str) -> Array:
        if name not in self._stored:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        dtype, shape, start = self._stored[name]
        array = np.frombuffer(self._data, dtype, math.prod(shape), start).reshape(shape)
        return array if array.flags.aligned else array.copy()
