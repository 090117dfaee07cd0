"""Weights of one layer: read from the file when they are first needed, then kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from typing import Literal

import numpy as np

from ciuic.devices import Weight
from ciuic.errors import ModelFormatError
from ciuic.quantize import quantize_columns
from ciuic.tensor import CiuicTensor

from .gguf_file import GgufFile

Quantize = Literal["int8", "auto"]


class LayerWeights:
    """The weights of one layer, by their role.

    Matrices are held transposed to (k, n), as `ciuic.ops` wants them: INT8 with a scale per column
    (`ciuic.quantize.QuantizedMatrix`), or float32.

    Parameters
    ----------
    file
        Where they are read from.
    names
        Role -> name of the tensor in the file.
    shapes
        Role -> shape in the file: (n, k) of a matrix, (d,) of a vector.
    quantize
        "int8", "auto" (INT8 on FPGAs, float32 elsewhere) or None (float32).
    transpose
        Whether matrices are for linear layers; False leaves a table of rows as it is.

    Raises
    ------
    ModelFormatError
        If a tensor is missing or has another shape.
    """

    def __init__(
        self,
        file: GgufFile,
        names: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        quantize: Quantize | None,
        *,
        transpose: bool = True,
    ) -> None:
        for role, name in names.items():
            if name not in file.tensors:
                raise ModelFormatError(file.path, f"tensor {name} is missing")
            if file.tensors[name].shape != shapes[role]:
                raise ModelFormatError(
                    file.path,
                    f"tensor {name} must have shape {shapes[role]}, not {file.tensors[name].shape}",
                )
        self._file = file
        self._names = dict(names)
        self._quantize = quantize
        self._transpose = transpose
        self._loaded: dict[str, Weight] = {}
        self._int8: LayerWeights | None = None  # the same weights in the form for FPGAs

    def on(self, kind: str) -> LayerWeights:
        """Return the weights in the form that a kind of device takes: INT8 on FPGAs with "auto"."""
        if kind != "FPGA" or self._quantize != "auto":
            return self
        if self._int8 is None:
            self._int8 = copy(self)
            self._int8._quantize = "int8"
            # Vectors are the same in both forms.
            self._int8._loaded = {
                role: self[role]
                for role, name in self._names.items()
                if len(self._file.tensors[name].shape) == 1
            }
        return self._int8

    def __getitem__(self, role: str) -> Weight:
        weight = self._loaded.get(role)
        if weight is None:
            weight = self._loaded[role] = self._read(self._names[role])
        return weight

    def __iter__(self) -> Iterator[tuple[str, Weight]]:
        for role in self._names:
            yield role, self[role]

    def __len__(self) -> int:
        return len(self._names)

    def _read(self, name: str) -> Weight:
        values = self._file.tensor(name)
        if values.ndim == 1 or not self._transpose:
            return CiuicTensor.from_numpy(values)
        matrix = np.ascontiguousarray(values.T)  # (k, n)
        if self._quantize == "int8":
            return quantize_columns(matrix)
        return CiuicTensor.from_numpy(matrix)
