"""Weights of one layer: read from the file when they are first needed, then kept."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from copy import copy
from typing import Literal

import numpy as np
import numpy.typing as npt

from ciuic.devices import Weight
from ciuic.errors import ModelFormatError, ShapeError
from ciuic.quantize import QuantizedMatrix, quantize_columns
from ciuic.tensor import CiuicTensor

from .tensor_source import TensorSource

Quantize = Literal["int8", "auto"]
BLOCK_ELEMENTS = 1 << 20  # of a matrix that is quantized: are float32 at a time


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

    def gather(self, role: str, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Return rows (t, d) of a table by their numbers (t,); the table itself is never read.

        Raises
        ------
        ShapeError
            If there is no such row.
        """
        rows = self._source.tensors[self._names[role]].shape[0]
        if ids.size and (ids.min() < 0 or ids.max() >= rows):
            raise ShapeError(f"ids must be from 0 to {rows - 1}, not {ids.min()} to {ids.max()}")
        return self._source.rows(self._names[role], ids.astype(np.intp))

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
        name = self._names[role]
        shape = self._source.tensors[name].shape
        linear = self._transpose and len(shape) == 2
        if linear and self._quantize == "int8" and role not in self._exact:
            return self._quantized(name, self._rows.get(role, np.arange(shape[0])))
        values = self._source.tensor(name)
        if role in self._rows:
            values = values[self._rows[role]]
        return CiuicTensor.from_numpy(np.ascontiguousarray(values.T) if linear else values)

    def _quantized(self, name: str, rows: npt.NDArray[np.intp]) -> QuantizedMatrix:
        """Return rows of a stored matrix (n, k) as INT8 (k, n), which lies in memory by rows.

        A few rows are float32 at a time, so that memory holds no float copy of the matrix.
        """
        k = self._source.tensors[name].shape[1]
        values, scales = np.empty((len(rows), k), np.int8), np.empty(len(rows), np.float32)
        for start in range(0, len(rows), step := max(1, BLOCK_ELEMENTS // k)):
            part = slice(start, start + step)
            quantized = quantize_columns(self._source.rows(name, rows[part]).T)
            values[part], scales[part] = quantized.values.T, quantized.scales
        return QuantizedMatrix(values.T, scales)
