"""Reading Hugging Face model folders: config.json, safetensors in one file or shards.

Types: F32, F16, BF16, and F8_E4M3 with a scale per block (`ciuic.models.float8`). Everything is
checked when the folder is opened: the `safetensors` package refuses headers that are too long,
overlap, leave gaps or point outside their file, and a shard's name must be that of a file in the
folder. Bytes stay memory-mapped until `HuggingFaceFolder.tensor` reads them. No code from a folder
is ever run.

The format is described in https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
import math
import mmap
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open

from ciuic.errors import ModelFormatError

from .float8 import SCALE_SUFFIX, read_blocks, scales_shape
from .keys import Keys

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
LARGEST_JSON_NBYTES = 64 << 20  # the tokenizers of today have 20 MB at most
ELEMENT_NBYTES = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}


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

    weights
        False to read nothing but config.json, as for a plan.

    Attributes
    ----------
    config, keys
        What config.json holds, and typed access to it.

    Raises
    ------
    ModelFormatError
        If a file is missing or broken, or holds a type of tensor that is not supported.
    """

    def __init__(self, path: str | Path, *, weights: bool = True) -> None:
        self.path = Path(path)
        self.config = read_json(self.path / CONFIG)
        self.keys = Keys(self.path / CONFIG, self.config)
        self._tensors: dict[str, StoredTensor] = {}
        self._block = _float8_block(self.keys)
        self._files: dict[str, mmap.mmap] = {}
        self._weights = weights
        if not weights:
            return
        try:
            for name in self._file_names():
                self._open(name)
            for name, info in self._tensors.items():
                if info.dtype == "F8_E4M3":
                    self._check_scales(name, info)
        except BaseException:
            self.close()
            raise

    @property
    def tensors(self) -> dict[str, StoredTensor] | None:
        """What tensors there are, by name; None if that was not looked at."""
        return self._tensors if self._weights else None

    @property
    def name(self) -> str:
        """Name of the model, for people."""
        return str(self.config.get("_name_or_path") or self.path.resolve().name)

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32."""
        return self._read(name, self._info(name))

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of a matrix as float32, without reading the others unless it is FP8."""
        info = self._info(name)
        if info.dtype == "F8_E4M3":  # blocks go over many rows
            return self._read(name, info)[start:stop]
        row_nbytes = info.nbytes // info.shape[0]
        shape = (stop - start, *info.shape[1:])
        return self._read(name, replace(info, shape=shape, start=info.start + start * row_nbytes))

    def _info(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise ModelFormatError(self.path, f"tensor {name} is missing")
        return self._tensors[name]

    def _read(self, name: str, info: StoredTensor) -> npt.NDArray[np.float32]:
        # Bytes of our own: arrays over the map itself would keep it from being closed.
        raw = self._files[info.file][info.start : info.start + info.nbytes]
        if info.dtype == "BF16":  # the upper half of a float32
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        elif info.dtype == "F8_E4M3":
            assert self._block is not None  # checked when the folder was opened
            codes = np.frombuffer(raw, np.uint8).reshape(info.shape)
            values = read_blocks(codes, self.tensor(name + SCALE_SUFFIX), self._block)
        else:
            values = np.frombuffer(raw, f"<f{ELEMENT_NBYTES[info.dtype]}").astype(np.float32)
        if not np.isfinite(values).all():
            raise ModelFormatError(self.path, f"tensor {name} holds values that are not finite")
        return values.reshape(info.shape)

    def int4(self, name: str) -> None:
        """Return None: no type that can be read has 4-bit integers."""

    def close(self) -> None:
        """Release the files; tensors that were read stay valid."""
        for data in self._files.values():
            data.close()

    def _check_scales(self, name: str, info: StoredTensor) -> None:
        """Refuse an FP8 weight without the scales of its blocks."""
        if self._block is None or len(info.shape) != 2:
            raise ModelFormatError(
                self.path,
                f"tensor {name} has type F8_E4M3, which must be a matrix in a model whose "
                f"quantization_config tells the size of its blocks",
            )
        scales = self._tensors.get(name + SCALE_SUFFIX)
        wanted = scales_shape(info.shape, self._block)
        if scales is None or scales.shape != wanted or scales.dtype == "F8_E4M3":
            raise ModelFormatError(
                self.path, f"tensor {name} must have scales of shape {wanted} for its blocks"
            )

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
            if tensor in self._tensors:
                raise ModelFormatError(path, f"tensor {tensor} is there twice")
            if entry["dtype"] not in ELEMENT_NBYTES:
                raise ModelFormatError(
                    path,
                    f"tensor {tensor} has type {entry['dtype']}; supported are "
                    f"{', '.join(ELEMENT_NBYTES)}",
                )
            self._tensors[tensor] = StoredTensor(
                file=name,
                dtype=entry["dtype"],
                shape=tuple(entry["shape"]),
                start=8 + header_nbytes + entry["data_offsets"][0],
            )


def _float8_block(keys: Keys) -> tuple[int, int] | None:
    """Return the size of the blocks that share a scale; None in a model that is not quantized."""
    quantized = keys.inside("quantization_config")
    if keys.get("quantization_config", {}) == {}:
        return None
    if quantized.get("quant_method") != "fp8":
        raise quantized.error("quant_method", "'fp8'", quantized.get("quant_method"))
    quantized.require("fmt", "e4m3")
    block = quantized.get("weight_block_size")
    if (
        not isinstance(block, list)
        or len(block) != 2
        or not all(type(size) is int and 0 < size < 1 << 31 for size in block)
    ):
        raise quantized.error("weight_block_size", "two positive integers", block)
    return block[0], block[1]


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
