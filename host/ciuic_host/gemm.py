"""Matrix products as numpy sees them, checked and turned into descriptors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import DESCRIPTOR, PARAMETERS, Flag, Format, Opcode, OverlayConfig
from ciuic.errors import ShapeError, UsageError
from ciuic.reference import ColumnParameters

from .staging import Matrix, Staging
from .transport import Buffer

PARAMETERS_DTYPE = np.dtype(
    {
        "names": [field.name for field in PARAMETERS.fields],
        "formats": [f"<u{field.bits // 8}" for field in PARAMETERS.fields],
        "offsets": [field.offset for field in PARAMETERS.fields],
        "itemsize": PARAMETERS.nbytes,
    }
)


@dataclass(frozen=True, eq=False)
class Packed:
    """Weights (k, n) on the host in the order in which the array takes them, by its ports."""

    k: int
    n: int
    stripes: npt.NDArray[np.uint8]  # (ports, stripe_bytes)
    w4: bool


@dataclass(frozen=True, eq=False)
class WeightHandle:
    """Packed weights (k, n) in the device's memory; made by `Overlay.load_weights`.

    ``stripe_bytes`` apart lies what each port of the overlay reads; ``w4``: INT4 with scales.
    ``slot``: the buffer is somebody else's, who puts other weights there in time.
    """

    k: int
    n: int
    buffer: Buffer
    stripe_bytes: int
    w4: bool = False
    slot: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Gemm:
    """One matrix product of several that are started together; see `Overlay.gemm`."""

    activations: npt.NDArray[np.int8]
    weights: WeightHandle
    parameters: ColumnParameters | None = None
    residual: npt.NDArray[np.int8 | np.int32] | None = None
    requantize: bool = False

    @property
    def result_dtype(self) -> type[np.int8 | np.int32]:
        """Type of the results' elements."""
        return np.int8 if self.requantize else np.int32

    @property
    def result_shape(self) -> tuple[int, int]:
        """Shape of the results, (m, n)."""
        return self.activations.shape[0], self.weights.n

    def check(self, config: OverlayConfig) -> None:
        """Raise `ShapeError` or `UsageError` if an overlay cannot run it."""
        check_matrix("activations", self.activations, ("int8",))
        k, n = self.weights.k, self.weights.n
        if self.activations.shape[1] != k:
            raise ShapeError(
                f"shapes must be (m, k) and (k, n), not {self.activations.shape} and {(k, n)}"
            )
        if self.parameters is not None and self.parameters.bias.shape != (n,):
            raise ShapeError(
                f"parameters must be of shape {(n,)}, not {self.parameters.bias.shape}"
            )
        if self.requantize and self.parameters is None:
            raise UsageError("parameters must be given to requantize, not None")
        if self.requantize and not config.int8_results:
            raise UsageError(
                f"requantize must be False on overlay {config.name!r}, whose {config.cols} columns "
                f"are less than a beat of {config.bus_bytes} INT8 results"
            )
        if self.residual is not None:
            check_matrix("residual", self.residual, (np.dtype(self.result_dtype).name,))
            if self.residual.shape != self.result_shape:
                raise ShapeError(
                    f"residual must be of shape {self.result_shape}, not {self.residual.shape}"
                )


@dataclass(frozen=True)
class StagedGemm:
    """A product whose operands are in the device's memory: its descriptor and its results."""

    descriptor: bytes
    result: Matrix
    dtype: type[np.int8 | np.int32]

    def get(self) -> npt.NDArray[Any]:
        """Take the results (m, n) from the device."""
        return self.result.get(self.dtype)


def stage(calls: list[Gemm], staging: Staging) -> list[StagedGemm]:
    """Put the operands of products into the device's memory."""
    shapes = [shape for call in calls for shape in _shapes(call)]
    matrices = iter(staging.matrices(*shapes))
    return [_stage(call, [next(matrices) for _ in _shapes(call)]) for call in calls]


def check_matrix(name: str, array: npt.NDArray[Any], dtypes: tuple[str, ...]) -> None:
    """Raise `ShapeError` if an operand is no matrix of one of some types."""
    if array.dtype.name not in dtypes:
        raise ShapeError(f"{name} must be {' or '.join(dtypes)}, not {array.dtype}")
    if array.ndim != 2 or array.size == 0:
        raise ShapeError(f"{name} must be a non-empty matrix, not of shape {array.shape}")


def _shapes(call: Gemm) -> list[tuple[int, int]]:
    """Return (rows, row_bytes) of activations, results, and of parameters and residual if any."""
    m, n = call.result_shape
    result = (m, n * np.dtype(call.result_dtype).itemsize)
    shapes = [(m, call.weights.k), result]
    if call.parameters is not None:
        shapes.append((1, n * PARAMETERS.nbytes))
    if call.residual is not None:
        shapes.append(result)
    return shapes


def _stage(call: Gemm, matrices: list[Matrix]) -> StagedGemm:
    activations, result, *others = matrices
    activations.put(call.activations)
    fields: dict[str, int] = {}
    flags = Flag.W4 if call.weights.w4 else Flag(0)
    if call.parameters is not None:
        parameters = others.pop(0)
        parameters.put(_records(call.parameters))
        flags |= Flag.PARAMETERS
        fields["p_addr"] = parameters.address
    if call.residual is not None:
        residual = others.pop(0)
        residual.put(call.residual)
        flags |= Flag.RESIDUAL
        fields |= {"r_addr": residual.address, "r_stride": residual.stride}
    descriptor = DESCRIPTOR.pack(
        opcode=Opcode.GEMM,
        flags=flags,
        out_format=Format.INT8 if call.requantize else Format.INT32,
        a_addr=activations.address,
        a_stride=activations.stride,
        w_addr=call.weights.buffer.device_address,
        w_stride=call.weights.stripe_bytes,
        o_addr=result.address,
        o_stride=result.stride,
        m=call.activations.shape[0],
        k=call.weights.k,
        n=call.weights.n,
        **fields,
    )
    return StagedGemm(descriptor, result, call.result_dtype)


def _records(parameters: ColumnParameters) -> npt.NDArray[np.uint8]:
    """Return the parameters of columns as memory holds them, (1, nbytes)."""
    records = np.zeros(parameters.bias.size, PARAMETERS_DTYPE)
    for name in PARAMETERS_DTYPE.names or ():
        values = getattr(parameters, name)
        records[name] = values.view(f"u{values.itemsize}")
    return records.view(np.uint8).reshape(1, -1)
