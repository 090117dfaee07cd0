"""One fused OpenCL kernel for a traced program: element by element, reductions along rows.

A row is the last axis; `GROUP` work-items share it. A value with one element per row becomes a
variable of all of them; values with an element per column are never stored: each loop over a row
computes those that it needs. The source does not depend on sizes, so that programs that differ
only in these share a kernel.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from ciuic.expression import ELEMENTWISE, REDUCTIONS, Operand, Program, Step

Shape = tuple[int, ...]

OPERATIONS = {
    "add": "{0} + {1}",
    "subtract": "{0} - {1}",
    "multiply": "{0} * {1}",
    "divide": "{0} / {1}",
    "exp": "exp({0})",
}
assert OPERATIONS.keys() == ELEMENTWISE.keys()
# Of a reduction: the type of its sum or maximum, where it starts, and how it takes an element in.
MERGES = {"max": ("float", "-INFINITY", "larger({0}, {1})"), "sum": ("real", "0", "{0} + {1}")}
assert MERGES.keys() == REDUCTIONS.keys()
LOOP = "for (int i = me; i < cols; i += GROUP)"


def can_fuse(program: Program) -> bool:
    """Return whether a program is of the kind that becomes one kernel.

    Its inputs have the broadcast shape of all, or of that one element per row, one per column or
    one in all; only the last axis is reduced, and kept unless that is the last step.
    """
    if program.dtype != "float32":
        return False
    whole = whole_shape(program)
    if not whole or any(_index(shape, whole) is None for shape in program.inputs):
        return False
    for step in program.steps:
        if step.op == "matmul" or (step.op in REDUCTIONS and not _reduces_rows(program, step)):
            return False
    last = program.steps[-1]
    per_row = (*whole[:-1], 1) if last.op in ELEMENTWISE or last.keepdims else whole[:-1]
    return last.shape in (whole, per_row)


def whole_shape(program: Program) -> Shape:
    """Return the broadcast shape of a program's inputs; () if they have none."""
    try:
        return np.broadcast_shapes(*program.inputs)
    except ValueError:  # a matmul's inputs need not broadcast
        return ()


def _reduces_rows(program: Program, step: Step) -> bool:
    (operand,) = step.operands
    shape = program.value_shape(operand)
    whole_row = step.axis == len(shape) - 1 and shape[-1] == whole_shape(program)[-1]
    return whole_row and (step.keepdims or step is program.steps[-1])


def _index(shape: Shape, whole: Shape) -> str | None:
    """Return where an input of a shape has the element for ``row`` and column ``i``."""
    if shape == whole:
        return "row * cols + i"
    padded = (1,) * (len(whole) - len(shape)) + shape
    per_column = padded[-1] == whole[-1]
    if all(size == 1 for size in padded[:-1]):
        return "i" if per_column else "0"
    return "row" if padded == (*whole[:-1], 1) else None


@lru_cache(maxsize=256)
def fused_source(program: Program) -> str:
    """Return the source of kernel ``fused``: inputs, result, then the length of a row.

    It goes behind the prelude of the other kernels and runs on one group per row.
    """
    return _Writer(program).source()


class _Writer:
    """Turns a program's steps into statements of a row and loops over it."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._whole = whole_shape(program)
        self._names: list[str] = []  # of values: how C refers to them
        self._per_column: list[bool] = []  # whether a value differs from column to column
        for number, shape in enumerate(program.inputs):
            index = _index(shape, self._whole)
            self._names.append(f"x{number}[{index}]")
            self._per_column.append(index is not None and index.endswith("i"))

    def source(self) -> str:
        """Return the whole kernel."""
        arguments = ", ".join(f"global const float *x{i}" for i in range(len(self._program.inputs)))
        statements = [line for step in self._program.steps for line in self._step(step)]
        result = len(self._names) - 1
        if self._per_column[result]:
            store = f"y[row * cols + i] = {self._names[result]};"
            statements += self._loop([result], store)
        elif self._program.shape == self._whole:
            statements.append(f"{LOOP} y[row * cols + i] = {self._names[result]};")
        else:
            statements.append(f"if (me == 0) y[row] = {self._names[result]};")
        body = "\n    ".join(statements)
        return f"""
kernel void fused({arguments}, global float *y, const int cols) {{
    local float floats_scratch[GROUP];
    local real scratch[GROUP];
    const size_t row = get_group_id(0);
    const int me = get_local_id(0);
    {body}
}}
"""

    def _step(self, step: Step) -> list[str]:
        """Return the statements of a step; a value per column has none of its own."""
        name = f"v{len(self._names)}"
        per_column = any(
            self._per_column[operand] for operand in step.operands if isinstance(operand, int)
        )
        self._names.append(name)
        self._per_column.append(per_column and step.op not in MERGES)
        if step.op in MERGES:
            return self._reduction(name, step)
        return [] if per_column else [f"const float {name} = {self._formula(step)};"]

    def _reduction(self, name: str, step: Step) -> list[str]:
        kind, start, merge = MERGES[step.op]
        (operand,) = step.operands
        element = merge.format(f"{name}_", self._operand(operand))
        scratch = "floats_scratch" if kind == "float" else "scratch"
        return [
            f"{kind} {name}_ = {start};",
            *self._loop([operand], f"{name}_ = {element};"),
            f"const float {name} = group_{step.op}({name}_, {scratch});",
        ]

    def _loop(self, wanted: list[Operand], statement: str) -> list[str]:
        """Return a loop over the row: the values that ``statement`` wants, then itself."""
        first = len(self._program.inputs)
        needed: set[int] = set()
        while wanted:
            value = wanted.pop()
            if isinstance(value, int) and value >= first and self._per_column[value]:
                if value not in needed:
                    wanted.extend(self._program.steps[value - first].operands)
                needed.add(value)
        lines = [
            f"    const float {self._names[value]} = "
            f"{self._formula(self._program.steps[value - first])};"
            for value in sorted(needed)
        ]
        return [f"{LOOP} {{", *lines, f"    {statement}", "}"]

    def _formula(self, step: Step) -> str:
        return OPERATIONS[step.op].format(*map(self._operand, step.operands))

    def _operand(self, operand: Operand) -> str:
        return _literal(operand) if isinstance(operand, float) else self._names[operand]


def _literal(constant: float) -> str:
    """Return a constant, rounded to float32, as C spells it."""
    with np.errstate(over="ignore"):
        rounded = float(np.float32(constant))
    if math.isnan(rounded):
        return "NAN"
    if math.isinf(rounded):
        return "INFINITY" if rounded > 0 else "(-INFINITY)"
    return f"({rounded.hex()}f)"
