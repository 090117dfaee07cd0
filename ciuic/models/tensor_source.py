"""What a model reads its weights from: a GGUF file, or a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt


class Int4Tensor(NamedTuple):
    """A matrix stored as 4-bit integers in groups of 32: values * scales + offsets of its groups.

    Attributes
    ----------
    values : int8 (n, k)
        From -8 to 7.
    scales : float32 (n, groups)
    offsets : float32 (n, groups) or None
    """

    values: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.float32] | None


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
    def tensors(self) -> Mapping[str, Shaped] | None:
        """What tensors there are, by name; None if that was not looked at."""

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32; raise `ModelFormatError` if it cannot be read."""

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of a matrix as float32 (stop - start, k), without reading the others."""

    def int4(self, name: str) -> Int4Tensor | None:
        """Return a matrix in the integers that it is stored in, or None if it is stored otherwise.

        Raises `ModelFormatError` if it cannot be read.
        """

    def close(self) -> None:
        """Release the files; tensors that were read stay valid."""
