"""Weights of one layer: read from the file when they are first needed, then kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import copy
from typing import Literal

import numpy as np
import numpy.typing as npt

from ciuic.devices import Weight
from ciuic.errors import ModelFormatError
from ciuic.quantize import quantize_columns
from ciuic.tensor import CiuicTensor

from .tensor_source import TensorSource

Quantize = Literal["int8", "int4", "auto"]


class LayerWeights:
    """The weights of one layer, by their role.

    Matrices are held transposed to (k, n), as `ciuic.ops` wants them: INT8 with a scale per column
    (`ciuic.quantize.QuantizedMatrix`), or float32.

    Parameters
    ----------
    source
        Where they are read from.
    names
        Role -> name of the tensor in the source.
    shapes
        Role -> shape there: (n, k) of a matrix, (d,) of a vector.
    quantize
        "int8", "auto" (INT8 on FPGAs, float32 elsewhere) or None (float32).
    transpose
        Whether matrices are for linear layers; False leaves a table of rows as it is.
    rows
        Role -> which rows n of the tensor it has; all unless named.
    exact
        Roles that are float32 however the others are quantized.

    Raises
    ------
    ModelFormatError
        If a tensor is missing or has another shape.
    """

    def __init__(
        self,
        source: TensorSource,
        names: Mapping[str, str],
        shapes: Mapping[str, tuple[int, ...]],
        quantize: Quantize | None,
        *,
        transpose: bool = True,
        rows: Mapping[str, npt.NDArray[np.intp]] | None = None,
        exact: Collection[str] = (),
    ) -> None:
        for role, name in names.items():
            if name not in source.tensors:
                raise ModelFormatError(source.path, f"tensor {name} is missing")
            found = source.tensors[name].shape
            if found != shapes[role]:
                raise ModelFormatError(
                    source.path, f"tensor {name} must have shape {shapes[role]}, not {found}"
                )
        self._source = source
        self._names = dict(names)
        self._quantize = quantize
        self._transpose = transpose
        self._rows = dict(rows or {})
        self._exact = frozenset(exact)
        self._loaded: dict[str, Weight] = {}
        self._int8: LayerWeights | None = None  # the same weights in the form for FPGAs

    def on(self, kind: str) -> LayerWeights:
        """Return the weights in the form that a kind of device takes: INT8 on FPGAs with "auto"."""
        if kind != "FPGA" or self._quantize != "auto":
            return self
        if self._int8 is None:
            self._int8 = copy(self)
            self._int8._quantize = "int8"
            # These are the same in both forms.
            self._int8._loaded = {
                role: self[role]
                for role, name in self._names.items()
                if role in self._exact or len(self._source.tensors[name].shape) == 1
            }
        return self._int8

    def __getitem__(self, role: str) -> Weight:
        weight = self._loaded.get(role)
        if weight is None:
            weight = self._loaded[role] = self._read(role)
        return weight

    def __iter__(self) -> Iterator[tuple[str, Weight]]:
        for role in self._names:
            yield role, self[role]

    def __len__(self) -> int:
        return len(self._names)

    def _read(self, role: str) -> Weight:
        values = self._source.tensor(self._names[role])
        if role in self._rows:
            values = values[self._rows[role]]
        if values.ndim == 1 or not self._transpose:
            return CiuicTensor.from_numpy(values)
        matrix = np.ascontiguousarray(values.T)  # (k, n)
        if self._quantize == "int8" and role not in self._exact:
            return quantize_columns(matrix)
        return CiuicTensor.from_numpy(matrix)
