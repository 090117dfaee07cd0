"""Weights of one layer: read from the file when they are first needed, then kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from copy import copy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.abi.numerics import W4_MAX_K
from ciuic.devices import Device, Weight
from ciuic.errors import ModelFormatError
from ciuic.memory.blocks import BLOCKS
from ciuic.quantize import QuantizedMatrix, block_of, quantize_columns
from ciuic.quantize_int4 import GroupQuantizedMatrix, quantize_groups
from ciuic.tensor import CiuicTensor

from .outline import outline
from .tensor_source import Shaped, TensorSource
from .weight_file import WeightFile

if TYPE_CHECKING:
    from .model import Layer

Quantize = Literal["int8", "int4", "auto"]
BLOCK_ELEMENTS = 1 << 18  # that are quantized at a time


class StoredShape(NamedTuple):
    """A tensor of a file: its name, and its shape there."""

    name: str
    shape: tuple[int, ...]


class LayerWeights:
    """The weights of one layer, by their role.

    Matrices are held transposed to (k, n), as `ciuic.ops` wants them: INT8 with a scale per column,
    rotated (`ciuic.quantize.QuantizedMatrix`), INT4 with a scale per group
    (`ciuic.quantize_int4.GroupQuantizedMatrix`), or float32.

    Parameters
    ----------
    source
        Where they are read from.
    names
        Role -> name of the tensor in the source.
    shapes
        Role -> shape there: (n, k) of a matrix, (d,) of a vector.
    quantize
        "int8", "int4" (the source's own integers where it has such; INT8 for matrices of more than
        `W4_MAX_K` rows), "auto" (INT8 on FPGAs, float32 elsewhere) or None (float32).
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
        if source.tensors is not None:
            _check(source.path, source.tensors, {names[role]: shapes[role] for role in names})
        self._source = source
        self._names = dict(names)
        self._shapes = dict(shapes)
        self._quantize = quantize
        self._transpose = transpose
        self._rows = dict(rows or {})
        self._exact = frozenset(exact)
        self._loaded: dict[str, Weight] = {}
        self._int8: LayerWeights | None = None  # the same weights in the form for FPGAs
        self._outlined = False
        self._converted: tuple[WeightFile, str] | None = None

    @property
    def stored(self) -> dict[str, StoredShape]:
        """Role -> name and shape of the tensor that it is read from; roles may share a tensor."""
        return {role: StoredShape(name, self._shapes[role]) for role, name in self._names.items()}

    def outline(self) -> None:
        """From now on have weights of the same shapes and types with nothing in them."""
        self._loaded, self._int8, self._outlined = {}, None, True

    def read_from(self, weights: WeightFile, prefix: str) -> None:
        """From now on read weights from a converted file, under their roles with a prefix."""
        self._converted = weights, prefix

    def read(self, role: str) -> Weight:
        """Return a weight without keeping it."""
        return self._loaded.get(role) or self._read(role)

    @property
    def quantize(self) -> Quantize | None:
        """How matrices are quantized."""
        return self._quantize

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
                for role, shape in self._shapes.items()
                if role in self._exact or len(shape) == 1
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
        is_matrix = self._transpose and len(self._shapes[role]) == 2
        form = None
        if is_matrix and role not in self._exact and self._quantize != "auto":
            too_long = self._quantize == "int4" and self._shapes[role][1] > W4_MAX_K
            form = "int8" if too_long else self._quantize
        shape = self._shapes[role]
        if role in self._rows:
            shape = (len(self._rows[role]), *shape[1:])
        if self._outlined:
            return outline(shape[::-1] if is_matrix else shape, form)
        if self._converted is not None:
            weights, prefix = self._converted
            return weights.weight(prefix + role, shape[::-1] if is_matrix else shape)
        if form == "int4" and (stored := self._stored_int4(role)) is not None:
            return stored
        name = self._names[role]
        if form == "int8" and role not in self._rows:
            return _quantized(shape, partial(self._source.rows, name))
        values = self._source.tensor(name)
        if role in self._rows:
            values = values[self._rows[role]]
        if not is_matrix:
            return CiuicTensor.adopt(values)
        if form == "int8":
            return _quantized(shape, lambda start, stop: values[start:stop])
        matrix = np.ascontiguousarray(values.T)  # (k, n)
        return quantize_groups(matrix) if form == "int4" else CiuicTensor.adopt(matrix)

    def _stored_int4(self, role: str) -> GroupQuantizedMatrix | None:
        """Return a matrix in the integers that the source has of it, or None if it has none."""
        stored = self._source.int4(self._names[role])
        if stored is None:
            return None
        rows = self._rows.get(role, slice(None))
        offsets = None if stored.offsets is None else stored.offsets[rows].T
        values = np.ascontiguousarray(stored.values[rows].T)
        return GroupQuantizedMatrix.encode(values, stored.scales[rows].T, offsets)


def _quantized(
    shape: tuple[int, ...], read: Callable[[int, int], npt.NDArray[np.float32]]
) -> QuantizedMatrix:
    """Return a stored matrix (n, k) as INT8 (k, n), which lies in memory by rows n as in the file.

    ``read(start, stop)`` gives some of its rows: a few are float32 at a time, never the matrix.
    """
    n, k = shape
    values, scales = BLOCKS.take(n * k).reshape(n, k), np.empty(n, np.float32)
    step, block = max(1, BLOCK_ELEMENTS // k), block_of(k)
    for start in range(0, n, step):
        part = quantize_columns(read(start, min(start + step, n)).T, block=block)
        values[start : start + step], scales[start : start + step] = part.values.T, part.scales
    return QuantizedMatrix(values.T, scales, block)


def head_form(quantize: Quantize | None) -> Quantize | None:
    """Return how the output matrix of a model is quantized: never below INT8.

    With INT4 it alone would cost SmolLM2-135M as much perplexity as all other matrices together.
    """
    return "int8" if quantize == "int4" else quantize


def _check(
    path: Path, tensors: Mapping[str, Shaped], wanted: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `ModelFormatError` unless all tensors that are wanted are there."""
    for name, shape in wanted.items():
        if name not in tensors:
            raise ModelFormatError(path, f"tensor {name} is missing")
        if tensors[name].shape != shape:
            raise ModelFormatError(
                path, f"tensor {name} must have shape {shape}, not {tensors[name].shape}"
            )


def weights_for(layer: Layer, device: Device) -> LayerWeights:
    """Return a layer's weights as a device takes them, or an FPGA whose place the device takes."""
    return layer.weights.on("FPGA" if layer.as_fpga else device.kind)
