"""A GGUF file of architecture deepseek2, with the tensors of a Hugging Face folder made from it.

llama.cpp stores all experts of a layer as one tensor (experts, n, k); here ``NAME[3]`` is the
fourth of them, and only its bytes are read. Files for the absorbed form of attention store what
brings latents up as two tensors, for keys transposed; here they are the one of the paper.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from ciuic.errors import ModelFormatError

from .gguf_file import GgufFile
from .tensor_source import Int4Tensor, Shaped

KEYS, VALUES, BOTH = "attn_k_b.weight", "attn_v_b.weight", "attn_kv_b.weight"


@dataclass(frozen=True)
class DerivedTensor:
    """A tensor that is made from stored ones when it is read."""

    shape: tuple[int, ...]
    read: Callable[[], npt.NDArray[np.float32]]
    int4: Callable[[], Int4Tensor | None] = lambda: None


class DeepseekTensors:
    """The tensors of a file and those made from them.

    Parameters
    ----------
    file
        The file.
    n_experts
        How many experts its layers have.

    Attributes
    ----------
    path, tensors
        Of the file; what tensors there are, by name.

    Raises
    ------
    ModelFormatError
        If a tensor holds another number of experts.
    """

    def __init__(self, file: GgufFile, n_experts: int) -> None:
        self.path = file.path
        self._file = file
        self._derived: dict[str, DerivedTensor] = {}
        for name, info in file.tensors.items():
            if name.endswith("_exps.weight") and len(info.shape) == 3:
                if info.shape[0] != n_experts:
                    raise ModelFormatError(
                        file.path,
                        f"tensor {name} must hold {n_experts} experts, not {info.shape[0]}",
                    )
                for expert in range(n_experts):
                    self._derived[f"{name}[{expert}]"] = DerivedTensor(
                        info.shape[1:],
                        partial(file.tensor, name, expert),
                        partial(file.int4, name, expert),
                    )
            elif name.endswith(KEYS):
                self._join(name, name.replace(KEYS, VALUES))
        self.tensors: Mapping[str, Shaped] = {**file.tensors, **self._derived}

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """Return a tensor as float32."""
        derived = self._derived.get(name)
        return self._file.tensor(name) if derived is None else derived.read()

    def rows(self, name: str, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Return rows of a matrix as float32; a derived one is read whole."""
        derived = self._derived.get(name)
        return self._file.rows(name, start, stop) if derived is None else derived.read()[start:stop]

    def int4(self, name: str) -> Int4Tensor | None:
        """Return a matrix in its own integers, or None if it is stored otherwise."""
        derived = self._derived.get(name)
        return self._file.int4(name) if derived is None else derived.int4()

    def close(self) -> None:
        """Release the file."""
        self._file.close()

    def _join(self, keys: str, values: str) -> None:
        """Make the rows of each head's keys, then its values, of k_b and v_b."""
        if values not in self._file.tensors:
            return
        k, v = self._file.tensors[keys].shape, self._file.tensors[values].shape
        if len(k) != 3 or len(v) != 3 or (k[0], k[1]) != (v[0], v[2]):
            return  # then the joined tensor is missing, which is what the error says
        heads, rank, nope = k
        shape = (heads * (nope + v[1]), rank)

        def read() -> npt.NDArray[np.float32]:
            parts = self._file.tensor(keys).transpose(0, 2, 1), self._file.tensor(values)
            return np.concatenate(parts, axis=1).reshape(shape)

        self._derived[keys.replace(KEYS, BOTH)] = DerivedTensor(shape, read)
