"""The file of a converted model: weights in the very form that devices take, in one safetensors.

A weight is one tensor or three: a vector, table or float32 matrix as it is; an INT8 matrix by rows
n, I8 (n, k), its scales under its name and `SCALES`, and the block of its rotation, I8 (1,), under
its name and `BLOCK`. Weights read from it are the mapped file itself: nothing is computed, and
nothing is read before it is used. So such a file must not be changed in place while a model is
loaded from it; replacing it by another is safe.

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
from ciuic.quantize import QuantizedMatrix
from ciuic.tensor import CiuicTensor

SCALES, BLOCK = ".scales", ".block"
DTYPES: dict[str, np.dtype[Any]] = {"I8": np.dtype("i1"), "F32": np.dtype("<f4")}
ALIGNMENT = 64  # bytes; of the first tensor
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
        raise NotImplementedError(f"no form in the file for {weight!r}")


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
        most = sum(3 * (len(name) + len(SCALES) + ENTRY_NBYTES) for name in names)
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
        if values.dtype == np.int8 and values.ndim == 2 and 0 not in values.shape:
            scales = self._array(name + SCALES)
            if scales.dtype != np.float32 or scales.shape != values.shape[:1]:
                raise ModelFormatError(self.path, f"the scales of {name} do not fit it")
            if not np.isfinite(scales).all():
                raise ModelFormatError(self.path, f"scales of {name} are not finite")
            block = self._array(name + BLOCK)
            if block.dtype != np.int8 or block.shape != (1,):
                raise ModelFormatError(self.path, f"the block of {name} must be one INT8 number")
            try:
                weight = QuantizedMatrix(values.T, scales, int(block[0]))
            except ShapeError as error:
                raise ModelFormatError(self.path, f"{name}: {error}") from error
        elif values.dtype == np.float32:
            weight = CiuicTensor.adopt(values)
        else:
            raise ModelFormatError(self.path, f"{name} must be float32 or an INT8 matrix")
        if weight.shape != shape:
            raise ModelFormatError(
                self.path, f"weight {name} must have shape {shape}, not {weight.shape}"
            )
        return weight

    def _array(self, name: str) -> Array:
        if name not in self._stored:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        dtype, shape, start = self._stored[name]
        array = np.frombuffer(self._data, dtype, math.prod(shape), start).reshape(shape)
        return array if array.flags.aligned else array.copy()
