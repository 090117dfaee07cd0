"""expression: a traced program (`ciuic.expression`) over float32 inputs; attribute ``program``."""

from __future__ import annotations

import numpy as np

from ciuic.expression import Program, evaluate
from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elements, require


def _shape(*inputs: Spec, program: Program) -> Shape:
    fits = tuple(value.shape for value in inputs) == program.inputs and all(
        value.dtype == np.float32 for value in inputs
    )
    require(fits, program.name, f"float32 {' and '.join(map(str, program.inputs))}", inputs)
    return program.shape


def _cost(*inputs: Spec, program: Program) -> Cost:
    flops = 0
    for step in program.steps:
        operand_sizes = [elements(program.value_shape(operand)) for operand in step.operands]
        if step.op == "matmul":
            flops += 2 * elements(step.shape) * program.value_shape(step.operands[0])[-1]
        else:
            flops += max(elements(step.shape), *operand_sizes)
    moved = sum(map(elements, program.inputs)) + elements(program.shape)
    return Cost(flops, 4 * moved)


def _kernel(*inputs: Float32Array, program: Program) -> Float32Array:
    return evaluate(program, *inputs)


OPERATOR = Operator("expression", _shape, _cost, _kernel)
