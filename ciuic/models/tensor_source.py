"""What a model reads its weights from: a GGUF file, or a Hugging Face folder."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt


class Shaped(Protocol):
    """What is known of a tensor before it is read."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Dimensions, slowest first."""


class TensorSource(Protocol):
    """Named tensors on disk, read one at a time."""

    @property
    def path(self) -> Path:
        """Where they lie."""

    @property
    def tensors(self) -> Mapping[str, Shaped]:
        """What tensors there are, by name."""

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32; raise `ModelFormatError` if it cannot be read."""

    def rows(self, name: str, ids: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
        """Return rows (n, k) of a matrix as float32, by their numbers (n,); read no others."""

    def close(self) -> None:
        """Release the files; tensors that were read stay valid."""


def read_rows(
    data: mmap.mmap, start: int, shape: tuple[int, int], ids: npt.NDArray[np.intp] | None
) -> npt.NDArray[np.uint8]:
    """Return a copy of the bytes (rows, row_nbytes) at ``start`` of a map, or of some rows.

    A copy, since arrays over the map itself would keep it from being closed.
    """
    rows, row_nbytes = shape
    stored = np.frombuffer(data, np.uint8, rows * row_nbytes, start).reshape(shape)
    return stored.copy() if ids is None else stored[ids]
