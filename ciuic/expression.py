"""Traced tensor programs: what the methods of `CiuicTensor` did, as a list of steps.

A program is a value: devices compile it once and find it again by equality. Steps are in order,
each names its operands: values 0 .. len(inputs) - 1 are the inputs, then one per step; a float is
a constant. The last step is the result.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Operand = int | float  # the number of a value, or a constant

ELEMENTWISE: dict[str, Callable[..., npt.NDArray[Any]]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "exp": np.exp,
}
REDUCTIONS: dict[str, Callable[..., npt.NDArray[Any]]] = {"max": np.max, "sum": np.sum}


@dataclass(frozen=True)
class Step:
    """One operation: of `ELEMENTWISE`, of `REDUCTIONS`, or matmul.

    Attributes
    ----------
    op : str
    operands : tuple
    shape : tuple
        Of the result.
    axis : int or None
        Reduced axis, counted from the first; only of reductions.
    keepdims : bool
    """

    op: str
    operands: tuple[Operand, ...]
    shape: tuple[int, ...]
    axis: int | None = None
    keepdims: bool = False


@dataclass(frozen=True)
class Program:
    """Steps over inputs of fixed shapes and one dtype.

    Attributes
    ----------
    name : str
        Of the custom operator, for reports.
    inputs : tuple of shapes
    dtype : str
    steps : tuple of Step
    """

    name: str
    inputs: tuple[tuple[int, ...], ...]
    dtype: str
    steps: tuple[Step, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.steps[-1].shape

    def value_shape(self, operand: Operand) -> tuple[int, ...]:
        """Return the shape of an operand; a constant has none."""
        if isinstance(operand, float):
            return ()
        if operand < len(self.inputs):
            return self.inputs[operand]
        return self.steps[operand - len(self.inputs)].shape


def evaluate(program: Program, *inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the result of a program in numpy."""
    values = list(inputs)
    dtype = np.dtype(program.dtype)
    for step in program.steps:
        operands = [
            dtype.type(operand) if isinstance(operand, float) else values[operand]
            for operand in step.operands
        ]
        if step.op in REDUCTIONS:
            result = REDUCTIONS[step.op](operands[0], axis=step.axis, keepdims=step.keepdims)
        elif step.op == "matmul":
            result = np.matmul(*operands)
        else:
            result = ELEMENTWISE[step.op](*operands)
        values.append(np.asarray(result, dtype))
    return values[-1]


def softmax_scale(program: Program) -> float | None:
    """Return s if the program is softmax(s * x) over the last axis of its one input, else None.

    The pattern is e / sum(e) with e = exp(y - max(y)), where y is x or x times a constant.
    """
    if len(program.inputs) != 1:
        return None
    match = _Matcher(program)
    divide = program.steps[-1]
    if divide.op != "divide":
        return None
    exponential, total = divide.operands
    if not match.reduces(total, "sum", exponential):
        return None
    difference = match.operand(exponential, "exp")
    subtract = match.step(difference, "subtract")
    if subtract is None or not match.reduces(subtract.operands[1], "max", subtract.operands[0]):
        return None
    scale = match.scale_of_input(subtract.operands[0])
    return scale if scale is not None and scale > 0 else None


class _Matcher:
    """Looks at the steps of a program by the values they make."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def step(self, value: Operand | None, op: str) -> Step | None:
        """Return the step that makes a value if it is an ``op``."""
        first = len(self._program.inputs)
        if not isinstance(value, int) or value < first:
            return None
        step = self._program.steps[value - first]
        return step if step.op == op else None

    def operand(self, value: Operand, op: str) -> Operand | None:
        """Return the first operand of the ``op`` that makes a value."""
        step = self.step(value, op)
        return None if step is None else step.operands[0]

    def reduces(self, value: Operand, op: str, source: Operand) -> bool:
        """Return whether a value is ``op`` over the last axis of ``source``, kept."""
        step = self.step(value, op)
        return (
            step is not None
            and step.operands[0] == source
            and step.keepdims
            and step.axis == len(self._program.value_shape(source)) - 1
        )

    def scale_of_input(self, value: Operand) -> float | None:
        """Return the constant factor between the input and a value."""
        if value == 0 and isinstance(value, int):
            return 1.0
        if (step := self.step(value, "multiply")) is not None:
            a, b = step.operands
            factor = b if isinstance(b, float) else a
            other = a if isinstance(b, float) else b
            inner = None if not isinstance(factor, float) else self.scale_of_input(other)
            return None if inner is None or not isinstance(factor, float) else inner * factor
        if (step := self.step(value, "divide")) is not None:
            numerator, divisor = step.operands
            inner = self.scale_of_input(numerator)
            return inner / divisor if inner is not None and isinstance(divisor, float) else None
        return None
