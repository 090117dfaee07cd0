"""How the kernels in C are called: the arrays, sizes and numbers of each operator, packed.

The order of each operator's arguments is that of its kernel in ``cpu_kernels.c``.
"""

from __future__ import annotations

import ctypes
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.ops.rope import RopeScaling, frequencies
from ciuic.quantize import Float32Array, Int8Array, QuantizedMatrix

from .arena import Result
from .array import DeviceArray

Array = npt.NDArray[Any]

_ARRAYS, _SIZES, _NUMBERS = 6, 6, 2
_ZEROS = (0,) * _SIZES  # for what a kernel has fewer of
_CALL = struct.Struct(f"@{1 + _ARRAYS}N{_SIZES}l{_NUMBERS}d")  # struct call


@dataclass(frozen=True, eq=False)
class RowWeight:
    """An INT8 weight with a row for each output: values (n, k), contiguous; scales (n,)."""

    values: Int8Array
    scales: Float32Array

    @classmethod
    def of(cls, weight: QuantizedMatrix) -> RowWeight:
        """Return a weight by rows; nothing is copied where it already lies so."""
        return cls(np.ascontiguousarray(weight.values.T), np.ascontiguousarray(weight.scales))

    @cached_property
    def addresses(self) -> tuple[int, int]:
        """Where values and scales are."""
        return _address(self.values), _address(self.scales)


class Arguments(NamedTuple):
    """What a kernel gets besides its result.

    Of an array that stays where it is the address will do; one that is not there is None.
    """

    arrays: tuple[DeviceArray | Array | int | None, ...]
    sizes: tuple[int, ...]
    numbers: tuple[float, ...] = ()


def _linear(x: DeviceArray, weight: DeviceArray, bias: DeviceArray | None = None) -> Arguments:
    rows: RowWeight = weight.storage.data
    return Arguments((x, *rows.addresses, bias), (x.shape[0], *weight.shape))


def _hadamard(x: DeviceArray, *, block: int) -> Arguments:
    return Arguments((x,), (math.prod(x.shape), block))


def _rms_norm(x: DeviceArray, weight: DeviceArray, *, eps: float) -> Arguments:
    return Arguments((x, weight), x.shape, (eps,))


def _rope(
    x: DeviceArray,
    positions: DeviceArray,
    *,
    theta: float,
    interleaved: bool = False,
    scaling: RopeScaling | None = None,
) -> Arguments:
    t, heads, head_dim = x.shape
    turns = _turns(head_dim, theta, scaling)
    return Arguments((x, positions, turns), (t, heads, head_dim // 2, interleaved))


@lru_cache(maxsize=16)
def _turns(head_dim: int, theta: float, scaling: RopeScaling | None) -> Float32Array:
    """Return the frequencies, not read-only: so their address is found faster (`_address`)."""
    return frequencies(head_dim, theta, scaling).copy()


def _attention(
    q: DeviceArray,
    keys: DeviceArray,
    values: DeviceArray,
    *,
    scale: float,
    offset: int = 0,
    softmax: str | None = None,
) -> Arguments:
    t, heads, head_dim = q.shape
    return Arguments((q, keys, values), (t, heads, keys.shape[1], head_dim), (scale,))


def _elementwise(a: DeviceArray, b: DeviceArray) -> Arguments:
    return Arguments((a, b), (math.prod(a.shape),))


def _kv_append(rows: DeviceArray, *, offset: int = 0) -> Arguments:
    return Arguments((rows,), (rows.shape[0], math.prod(rows.shape[1:])))


ARGUMENTS: dict[str, Callable[..., Arguments]] = {
    "linear": _linear,
    "hadamard": _hadamard,
    "rms_norm": _rms_norm,
    "rope": _rope,
    "attention": _attention,
    "silu_mul": _elementwise,
    "add": _elementwise,
    "kv_append": _kv_append,
}
"""Operator -> what its kernel gets of the operator's inputs and attributes."""


class Calls:
    """Packs and runs calls of a compiled library.

    Parameters
    ----------
    library
        What `ciuic.devices.native.load` returned.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._run = library.ciuic_run
        self._run.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_long]
        self._kernels = {
            op: ctypes.cast(getattr(library, f"ciuic_{op}"), ctypes.c_void_p).value
            for op in ARGUMENTS
        }

    def pack(self, op: str, result: DeviceArray, arguments: Arguments) -> bytes:
        """Return one call; its arrays must stay where they are while it may run."""
        arrays, sizes, numbers = arguments
        addresses = [_address(result), *map(_address, arrays)]
        return _CALL.pack(
            self._kernels[op],
            *addresses,
            *_ZEROS[len(addresses) : _ARRAYS],
            *sizes,
            *_ZEROS[len(sizes) : _SIZES],
            *numbers,
            *_ZEROS[len(numbers) : _NUMBERS],
        )

    def run(self, calls: bytes, offset: int = 0) -> None:
        """Run calls one after another.

        Raises
        ------
        MemoryError
            If a kernel found no memory for its intermediate results.
        """
        if self._run(calls, len(calls) // _CALL.size, offset):
            raise MemoryError("no memory for the intermediate results of a kernel")


def host_operand(array: DeviceArray) -> Any:
    """Return what a kernel takes of an array whose data lie in host memory."""
    data = array.storage.data
    if isinstance(data, np.ndarray) and data.shape != array.shape:
        return data.reshape(array.shape)
    return data


def _address(array: Any) -> int:
    if array is None:
        return 0
    if isinstance(array, int):
        return array
    if isinstance(array, DeviceArray):
        storage = array.storage
        if isinstance(storage, Result):
            arena: Any = storage.device.arena  # `HostArena`
            start: int = arena.address + storage.place[0]
            return start
        array = storage.data
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # four times as fast as below
    except (TypeError, ValueError):  # it is read-only, or empty
        address: int = array.__array_interface__["data"][0]
        return address
