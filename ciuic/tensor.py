"""CiuicTensor: an array whose operations are recorded and run where the result is needed.

A tensor is a cell that holds a value: a host array, an array on a device, or an expression over
other values. Values never change; ``copy_from`` puts another one into the cell. Arithmetic only
records; ``numpy()`` and ``copy_from`` evaluate. A `CustomOperator` written with these methods can
therefore be traced (`trace`) and compiled for a device.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError, UsageError
from ciuic.expression import Operand, Program, Step, evaluate

Array = npt.NDArray[Any]
Shape = tuple[int, ...]
DTYPES = ("float32", "float64", "int32", "int8")


class RemoteArray(Protocol):
    """An array on a device, as far as a tensor is concerned."""

    @property
    def shape(self) -> Shape:
        """Dimensions."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""

    def numpy(self) -> Array:
        """Return the contents, read-only; wait for them."""


class Value:
    """What a tensor holds at one time. Its contents never change.

    Exactly one of ``remote`` and ``op`` is set for a value that has no host array yet; neither is
    for the inputs of a trace.
    """

    __slots__ = (
        "__weakref__",
        "array",
        "axis",
        "dtype",
        "keepdims",
        "op",
        "operands",
        "remote",
        "shape",
    )

    def __init__(
        self,
        shape: Shape,
        dtype: np.dtype[Any],
        *,
        array: Array | None = None,
        remote: RemoteArray | None = None,
        op: str | None = None,
        operands: tuple[Value | float, ...] = (),
        axis: int | None = None,
        keepdims: bool = False,
    ) -> None:
        self.shape = shape
        self.dtype = dtype
        self.array = array
        self.remote = remote
        self.op = op
        self.operands = operands
        self.axis = axis
        self.keepdims = keepdims

    def host(self) -> Array:
        """Return the contents as a host array; evaluate or fetch them once."""
        if self.array is None:
            if self.op is not None:
                program, leaves = _linearize(self, (), "expression")
                self.array = evaluate(program, *(leaf.host() for leaf in leaves))
                self.op, self.operands = None, ()
            elif self.remote is not None:
                self.array = self.remote.numpy()
            else:
                raise UsageError(
                    "forward of a custom operator must use tensor methods only, "
                    "not the contents of its inputs"
                )
        return self.array


class CiuicTensor:
    """An array of a fixed shape and dtype; zeros until something is copied into it.

    Two tensors are equal only if they are the same object: devices remember what they hold.

    Parameters
    ----------
    shape : sequence of int
    dtype : str or numpy dtype
        float32, float64, int32 or int8.

    Raises
    ------
    ShapeError
        If the shape or dtype cannot be used.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, shape: Sequence[int], dtype: npt.DTypeLike = "float32") -> None:
        self._value = _zeros(checked_shape(shape), checked_dtype(dtype))

    @classmethod
    def from_numpy(cls, array: npt.ArrayLike) -> CiuicTensor:
        """Return a tensor with a copy of an array's contents."""
        contents = np.array(array, order="C")
        return cls._of(Value(contents.shape, checked_dtype(contents.dtype), array=contents))

    @classmethod
    def adopt(cls, array: Array) -> CiuicTensor:
        """Return a tensor of an array that nobody will change: no copy."""
        return cls._of(Value(array.shape, checked_dtype(array.dtype), array=array))

    @classmethod
    def from_device(cls, array: RemoteArray) -> CiuicTensor:
        """Return a tensor whose contents lie on a device and are fetched when asked for."""
        return cls._of(Value(array.shape, array.dtype, remote=array))

    @classmethod
    def _of(cls, value: Value) -> CiuicTensor:
        tensor = cls.__new__(cls)
        tensor._value = value
        return tensor

    def __repr__(self) -> str:
        return f"CiuicTensor(shape={self.shape}, dtype={self.dtype})"

    @property
    def shape(self) -> Shape:
        """Dimensions."""
        return self._value.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self._value.dtype

    @property
    def nbytes(self) -> int:
        """Size of the contents in bytes."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def value(self) -> Value:
        """What the tensor holds now."""
        return self._value

    def numpy(self) -> Array:
        """Return the contents, read-only; evaluate or fetch them if need be."""
        view = self._value.host().view()
        view.flags.writeable = False
        return view

    def copy_from(self, source: CiuicTensor) -> None:
        """Take over the contents of a tensor of the same shape and dtype.

        Contents on a device stay there. Host contents are written into this tensor's memory,
        unless somebody else still sees what it held before.

        Raises
        ------
        ShapeError
            If shape or dtype differ.
        """
        if source.shape != self.shape or source.dtype != self.dtype:
            raise ShapeError(
                f"source must be {self.dtype} {self.shape}, not {source.dtype} {source.shape}"
            )
        if source._value is self._value:
            return
        if source._value.remote is not None:
            self._value = source._value
            return
        contents = source._value.host()
        array = self._private_array()
        if array is None:
            array = contents.copy()
        else:
            np.copyto(array, contents)
        self._value = Value(self.shape, self.dtype, array=array)

    def _private_array(self) -> Array | None:
        """Return the host array if nobody else can see it."""
        if sys.getrefcount(self._value) != _ONE_REFERENCE or self._value.array is None:
            return None
        if sys.getrefcount(self._value.array) != _ONE_REFERENCE:
            return None
        return self._value.array if self._value.array.flags.writeable else None

    def exp(self) -> CiuicTensor:
        """Return e to the power of each element."""
        return _record("exp", (self,), self.shape)

    def max(self, axis: int | None = None, keepdims: bool = False) -> CiuicTensor:
        """Return the largest element along an axis, or of all."""
        return self._reduce("max", axis, keepdims)

    def sum(self, axis: int | None = None, keepdims: bool = False) -> CiuicTensor:
        """Return the sum along an axis, or of all."""
        return self._reduce("sum", axis, keepdims)

    def matmul(self, other: CiuicTensor) -> CiuicTensor:
        """Return the matrix product (..., m, k) @ (..., k, n)."""
        if len(self.shape) < 2 or len(other.shape) < 2 or self.shape[-1] != other.shape[-2]:
            raise ShapeError(
                f"shapes must be (..., m, k) and (..., k, n), not {self.shape} and {other.shape}"
            )
        batch = _broadcast(self.shape[:-2], other.shape[:-2])
        return _record("matmul", (self, other), (*batch, self.shape[-2], other.shape[-1]))

    def _reduce(self, op: str, axis: int | None, keepdims: bool) -> CiuicTensor:
        dimensions = len(self.shape)
        if axis is not None and not -dimensions <= axis < dimensions:
            raise ShapeError(f"axis must be from {-dimensions} to {dimensions - 1}, not {axis!r}")
        if axis is None:
            shape = (1,) * dimensions if keepdims else ()
        else:
            axis %= dimensions
            shape = (*self.shape[:axis], *(1,) * keepdims, *self.shape[axis + 1 :])
        return _record(op, (self,), shape, axis, keepdims)

    def __add__(self, other: CiuicTensor | float) -> CiuicTensor:
        return _binary("add", self, other)

    def __radd__(self, other: float) -> CiuicTensor:
        return _binary("add", other, self)

    def __sub__(self, other: CiuicTensor | float) -> CiuicTensor:
        return _binary("subtract", self, other)

    def __rsub__(self, other: float) -> CiuicTensor:
        return _binary("subtract", other, self)

    def __mul__(self, other: CiuicTensor | float) -> CiuicTensor:
        return _binary("multiply", self, other)

    def __rmul__(self, other: float) -> CiuicTensor:
        return _binary("multiply", other, self)

    def __truediv__(self, other: CiuicTensor | float) -> CiuicTensor:
        return _binary("divide", self, other)

    def __rtruediv__(self, other: float) -> CiuicTensor:
        return _binary("divide", other, self)

    def __matmul__(self, other: CiuicTensor) -> CiuicTensor:
        return self.matmul(other)


def trace(
    function: Callable[..., CiuicTensor], inputs: Sequence[CiuicTensor], name: str
) -> tuple[Program, tuple[CiuicTensor, ...]]:
    """Return what a function does with tensors of these shapes, and the tensors it brought along.

    The program's inputs are ``inputs``, then the tensors brought along.

    Raises
    ------
    UsageError
        If the function reads contents of its inputs or does not return a recorded tensor.
    """
    placeholders = tuple(Value(tensor.shape, tensor.dtype) for tensor in inputs)
    result = function(*(CiuicTensor._of(value) for value in placeholders))
    if not isinstance(result, CiuicTensor) or result.value.op is None:
        raise UsageError(f"{name} must return a tensor computed by tensor methods, not {result!r}")
    program, leaves = _linearize(result.value, placeholders, name)
    return program, tuple(CiuicTensor._of(leaf) for leaf in leaves[len(placeholders) :])


def _linearize(
    result: Value, inputs: tuple[Value, ...], name: str
) -> tuple[Program, tuple[Value, ...]]:
    """Return the program that makes a value, and its inputs: those given, then other leaves."""
    order: list[Value] = []  # values that are steps, operands before users
    leaves = list(inputs)
    seen = {id(value) for value in inputs}
    stack: list[tuple[Value, bool]] = [(result, False)]
    while stack:
        value, expanded = stack.pop()
        if expanded:
            order.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            if value.op is None:
                leaves.append(value)
                continue
            stack.append((value, True))
            stack.extend((o, False) for o in value.operands if isinstance(o, Value))
    number = {id(value): index for index, value in enumerate((*leaves, *order))}

    def operand(item: Value | float) -> Operand:
        return number[id(item)] if isinstance(item, Value) else item

    steps = tuple(
        Step(str(v.op), tuple(map(operand, v.operands)), v.shape, v.axis, v.keepdims) for v in order
    )
    shapes = tuple(leaf.shape for leaf in leaves)
    return Program(name, shapes, str(result.dtype), steps), tuple(leaves)


def _binary(op: str, a: CiuicTensor | float, b: CiuicTensor | float) -> CiuicTensor:
    shapes = [operand.shape for operand in (a, b) if isinstance(operand, CiuicTensor)]
    operands = tuple(x if isinstance(x, CiuicTensor) else float(x) for x in (a, b))
    return _record(op, operands, _broadcast(*shapes))


def _record(
    op: str,
    operands: tuple[CiuicTensor | float, ...],
    shape: Shape,
    axis: int | None = None,
    keepdims: bool = False,
) -> CiuicTensor:
    dtypes = {operand.dtype for operand in operands if isinstance(operand, CiuicTensor)}
    dtype = dtypes.pop()
    if dtypes or dtype.kind != "f":
        names = ", ".join(sorted(map(str, (dtype, *dtypes))))
        raise ShapeError(f"operands of {op} must have one floating dtype, not {names}")
    values = tuple(o.value if isinstance(o, CiuicTensor) else o for o in operands)
    value = Value(shape, dtype, op=op, operands=values, axis=axis, keepdims=keepdims)
    return CiuicTensor._of(value)


def _broadcast(*shapes: Shape) -> Shape:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as error:
        raise ShapeError(f"shapes must broadcast, not {' and '.join(map(str, shapes))}") from error


def _zeros(shape: Shape, dtype: np.dtype[Any]) -> Value:
    return Value(shape, dtype, array=np.zeros(shape, dtype))


def checked_shape(shape: Sequence[int]) -> Shape:
    """Return a tensor's shape, or raise `ShapeError` if it cannot be one."""
    sizes = tuple(shape) if isinstance(shape, Sequence) else None
    if sizes is None or not all(isinstance(n, int | np.integer) and n > 0 for n in sizes):
        raise ShapeError(f"shape must be positive sizes, not {shape!r}")
    return tuple(int(size) for size in sizes)


def checked_dtype(dtype: npt.DTypeLike) -> np.dtype[Any]:
    """Return a tensor's dtype, or raise `ShapeError` if it cannot be one."""
    try:
        checked = np.dtype(dtype)
    except TypeError as error:
        raise ShapeError(f"dtype must be one of {DTYPES}, not {dtype!r}") from error
    if checked.name not in DTYPES:
        raise ShapeError(f"dtype must be one of {DTYPES}, not {checked.name!r}")
    return checked


# What getrefcount counts of an object that one attribute holds, on this interpreter.
_PROBE = CiuicTensor((1,))
_ONE_REFERENCE = sys.getrefcount(_PROBE._value)
