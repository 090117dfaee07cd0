"""Reading Hugging Face model folders: config.json, safetensors in one file or shards.

Everything is checked when the folder is opened: the `safetensors` package refuses headers that
are too long, overlap, leave gaps or point outside their file, and a shard's name must be that of
a file in the folder. Bytes stay memory-mapped until `HuggingFaceFolder.tensor` reads them. No code
from a folder is ever run.

The format is described in https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ciuic.errors import ModelFormatError

from .tensor_source import read_rows

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON_NBYTES = 64 << 20  # the tokenizers of today have 20 MB at most
ELEMENT_NBYTES = {"F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a folder; ``start`` is the first byte's offset in its file."""

    file: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * ELEMENT_NBYTES[self.dtype]


class HuggingFaceFolder:
    """An open model folder.

    Parameters
    ----------
    path
        The folder.

    Attributes
    ----------
    config
        What config.json holds.
    tensors
        What tensors there are, by name.

    Raises
    ------
    ModelFormatError
        If a file is missing or broken, or holds a type of tensor that is not supported.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = read_json(self.path / CONFIG)
        self.tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, mmap.mmap] = {}
        try:
            for name in self._file_names():
                self._open(name)
        except BaseException:
            self.close()
            raise

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32."""
        return self._decode(name, None)

    def rows(self, name: str, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return rows of a matrix as float32, by their numbers."""
        return self._decode(name, ids)

    def _decode(self, name: str, ids: npt.NDArray[np.intp] | None) -> npt.NDArray[np.float32]:
        if name not in self.tensors:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        info = self.tensors[name]
        shape = info.shape or (1,)
        row_nbytes = math.prod(shape[1:]) * ELEMENT_NBYTES[info.dtype]
        raw = read_rows(self._files[info.file], info.start, (shape[0], row_nbytes), ids)
        if info.dtype == "BF16":  # the upper half of a float32
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = raw.view(f"<f{ELEMENT_NBYTES[info.dtype]}").astype(np.float32)
        if not np.isfinite(values).all():
            raise ModelFormatError(self.path, f"tensor {name} holds values that are not finite")
        return values.reshape(info.shape if ids is None else (len(ids), *shape[1:]))

    def close(self) -> None:
        """Release the files; tensors that were read stay valid."""
        for data in self._files.values():
            data.close()

    def _file_names(self) -> list[str]:
        if (self.path / WEIGHTS).is_file():
            return [WEIGHTS]
        if not (self.path / INDEX).is_file():
            raise ModelFormatError(self.path, f"must hold {WEIGHTS} or {INDEX}")
        shards = read_json(self.path / INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards:
            raise ModelFormatError(self.path / INDEX, "weight_map must name the tensors' files")
        names = sorted({str(name) for name in shards.values()})
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise ModelFormatError(
                    self.path / INDEX,
                    f"a shard must be a .safetensors file in the folder, not {name!r}",
                )
        return names

    def _open(self, name: str) -> None:
        path = self.path / name
        try:
            # Its header is checked by the package before anything here looks at it.
            with safe_open(path, framework="np"):
                pass
            with path.open("rb") as file:
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (SafetensorError, ValueError) as error:
            raise ModelFormatError(path, f"not a whole safetensors file ({error})") from error
        except OSError as error:
            raise ModelFormatError(path, f"cannot be read ({error.strerror or error})") from error
        self._files[name] = data
        (header_nbytes,) = struct.unpack("<Q", data[:8])
        header: dict[str, Any] = json.loads(data[8 : 8 + header_nbytes])
        header.pop("__metadata__", None)
        for tensor, entry in header.items():
            if tensor in self.tensors:
                raise ModelFormatError(path, f"tensor {tensor} is there twice")
            if entry["dtype"] not in ELEMENT_NBYTES:
                raise ModelFormatError(
                    path,
                    f"tensor {tensor} has type {entry['dtype']}; supported are "
                    f"{', '.join(ELEMENT_NBYTES)}",
                )
            self.tensors[tensor] = StoredTensor(
                file=name,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=8 + header_nbytes + entry["data_offsets"][0],
            )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises
    ------
    ModelFormatError
        If the file is missing, too large, or holds something else.
    """
    try:
        if path.stat().st_size > LARGEST_JSON_NBYTES:
            raise ModelFormatError(
                path,
                f"must have at most {LARGEST_JSON_NBYTES:,} bytes, not {path.stat().st_size:,}",
            )
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise ModelFormatError(path, f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelFormatError(path, f"not JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelFormatError(path, "must hold a JSON object")
    return value
