"""One fused OpenCL kernel for a traced program: element by element, reductions along rows.

A work-item computes a row (the last axis). Values that have one element a row become variables;
whole rows are never stored, their expressions stand wherever an element is needed.
"""

from __future__ import annotations

from ciuic.expression import ELEMENTWISE, REDUCTIONS, Operand, Program, Step

OPERATIONS = {
    "add": "({0} + {1})",
    "subtract": "({0} - {1})",
    "multiply": "({0} * {1})",
    "divide": "({0} / {1})",
    "exp": "exp({0})",
}
assert OPERATIONS.keys() == ELEMENTWISE.keys()
MERGES = {"max": ("-INFINITY", "fmax({0}, {1})"), "sum": ("0.0f", "{0} + {1}")}
assert MERGES.keys() == REDUCTIONS.keys()
MAX_EXPRESSION = 4000  # characters of one element's expression


def can_fuse(program: Program) -> bool:
    """Return whether a program is of the kind that becomes one kernel."""
    if program.dtype != "float32" or not program.inputs or not program.inputs[0]:
        return False
    whole = program.inputs[0]
    kept = (*whole[:-1], 1)
    if any(shape not in (whole, kept) for shape in program.inputs):
        return False
    for step in program.steps:
        if step.op == "matmul" or step.shape not in (whole, kept):
            return False
        if step.op in REDUCTIONS and not (
            step.keepdims
            and step.axis == len(whole) - 1
            and program.value_shape(step.operands[0]) == whole
        ):
            return False
    return len(_Writer(program).result()) <= MAX_EXPRESSION


def fused_source(program: Program) -> str:
    """Return the source of kernel ``fused``: inputs, result, then the length of a row."""
    writer = _Writer(program)
    result = writer.result()
    arguments = ", ".join(f"global const float *x{i}" for i in range(len(program.inputs)))
    body = "\n    ".join(writer.statements)
    target = "row * cols + i" if program.shape == program.inputs[0] else "row"
    store = f"y[{target}] = {result};"
    if program.shape == program.inputs[0]:
        store = f"for (int i = 0; i < cols; i++) {store}"
    return (
        "#pragma OPENCL FP_CONTRACT OFF\n"
        f"kernel void fused({arguments}, global float *y, const int cols) {{\n"
        f"    const size_t row = get_global_id(0);\n    {body}\n    {store}\n}}\n"
    )


class _Writer:
    """Turns a program's steps into C expressions and, for values of a row, statements."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._whole = program.inputs[0]
        self.statements: list[str] = []
        self._texts = [
            f"x{i}[row * cols + i]" if shape == self._whole else f"x{i}[row]"
            for i, shape in enumerate(program.inputs)
        ]
        for number, step in enumerate(program.steps):
            self._texts.append(self._step(f"v{number}", step))

    def result(self) -> str:
        """Return the expression of the last value."""
        return self._texts[-1]

    def _operand(self, operand: Operand) -> str:
        if isinstance(operand, float):
            return f"((float){operand!r})"
        return self._texts[operand]

    def _step(self, name: str, step: Step) -> str:
        operands = [self._operand(operand) for operand in step.operands]
        if step.op in MERGES:
            start, merge = MERGES[step.op]
            merged = merge.format(name, operands[0])
            self.statements.append(f"float {name} = {start};")
            self.statements.append(f"for (int i = 0; i < cols; i++) {name} = {merged};")
            return name
        text = OPERATIONS[step.op].format(*operands)
        if step.shape == self._whole:
            return text
        self.statements.append(f"const float {name} = {text};")
        return name
