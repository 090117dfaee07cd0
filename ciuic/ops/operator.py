"""What the runtime knows of an operator, whichever device runs it.

All results are float32. Arithmetic with more than one rounding (sums, exp, division by a norm) is
done in float64 and rounded once, so that devices that add in another order or have another exp
still agree to the last bit; INT8 quantization would make a large difference of the smallest one.

``shape``, ``cost`` and ``kernel`` take the operator's inputs by position
and its attributes by keyword; the first two need only the inputs' ``shape`` and ``dtype``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError

Shape = tuple[int, ...]


class Spec(Protocol):
    """An array as far as shapes are concerned."""

    @property
    def shape(self) -> Shape:
        """Dimensions."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""


class Cost(NamedTuple):
    """Work of one task: arithmetic operations, and bytes that must be read and written."""

    flops: int
    nbytes: int


@dataclass(frozen=True)
class Operator:
    """An operator: shape rule, cost rule and the kernel in numpy.

    Attributes
    ----------
    name : str
    shape : callable
        Return the result's shape; raise `ShapeError` if the inputs do not fit.
    cost : callable
        Return the `Cost` of a task.
    kernel : callable
        Compute the result from numpy arrays.
    in_place : bool
        The result is the first input, written to.
    takes_out : bool
        The kernel writes the result to an array ``out``, if it is given one.
    """

    name: str
    shape: Callable[..., Shape]
    cost: Callable[..., Cost]
    kernel: Callable[..., npt.NDArray[Any]]
    in_place: bool = False
    takes_out: bool = False


def require(condition: bool, operator: str, wanted: str, inputs: Iterable[Spec]) -> None:
    """Raise `ShapeError` unless the inputs of an operator fit."""
    if not condition:
        found = ", ".join(f"{value.dtype} {tuple(value.shape)}" for value in inputs)
        raise ShapeError(f"inputs of {operator} must be {wanted}, not {found}")


def elements(shape: Shape) -> int:
    """Return the number of elements of a shape."""
    count = 1
    for size in shape:
        count *= size
    return count


def elementwise_cost(shape: Shape, *, flops: int, arrays: int) -> Cost:
    """Return the cost of float32 arithmetic over ``arrays`` arrays of one shape."""
    count = elements(shape)
    return Cost(count * flops, 4 * count * arrays)
