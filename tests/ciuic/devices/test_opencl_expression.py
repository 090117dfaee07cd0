"""Traced programs as one OpenCL kernel, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic import expression
from ciuic.devices.opencl import OpenclDevice
from ciuic.devices.opencl_expression import can_fuse, fused_source
from ciuic.expression import Program
from ciuic.tensor import CiuicTensor, trace

Forward = Callable[..., CiuicTensor]


def gelu(x: CiuicTensor) -> CiuicTensor:
    return x / (1.0 + (-1.702 * x).exp())


def softmax(x: CiuicTensor) -> CiuicTensor:
    exponential = (x - x.max(axis=-1, keepdims=True)).exp()
    return exponential / exponential.sum(axis=-1, keepdims=True)


def rms_norm(x: CiuicTensor, weight: CiuicTensor) -> CiuicTensor:
    mean = (x * x).sum(axis=-1, keepdims=True) / float(x.shape[-1])
    return x / mean * (1.0 + weight)  # without a root, which tensors do not have


def row_scaled(scale: CiuicTensor, x: CiuicTensor) -> CiuicTensor:
    return (scale + scale.exp()) * x - 0.5


def row_sum(x: CiuicTensor) -> CiuicTensor:
    return (x * 0.1).sum(axis=-1)


def row_max(x: CiuicTensor) -> CiuicTensor:
    return x.max(axis=-1, keepdims=True) + 1.0


def doubled_often(x: CiuicTensor) -> CiuicTensor:
    for _ in range(64):  # written out as one expression it would have 2**64 terms
        x = (x + x) * 0.5
    return x


FUSED: list[tuple[Forward, list[tuple[int, ...]]]] = [
    (gelu, [(2, 7, 33)]),
    (gelu, [(300,)]),
    (softmax, [(5, 197)]),
    (softmax, [(1, 1)]),
    (softmax, [(4, 1)]),
    (softmax, [(64,)]),
    (rms_norm, [(6, 40), (40,)]),
    (rms_norm, [(2, 3, 40), (1, 40)]),
    (rms_norm, [(6, 40), (1,)]),
    (rms_norm, [(2, 40), (2, 1)]),
    (row_scaled, [(3, 1), (3, 17)]),
    (row_sum, [(3, 70)]),
    (row_sum, [(70,)]),
    (row_max, [(2, 3, 20)]),
    (row_max, [(3, 1)]),
    (doubled_often, [(2, 5)]),
]

NOT_FUSED: list[tuple[Forward, list[tuple[int, ...]]]] = [
    (lambda x: x - x.max(axis=0, keepdims=True), [(3, 4)]),
    (lambda x, y: x @ y, [(3, 4), (4, 3)]),
    (lambda x: x.sum(axis=-1) + 1.0, [(3, 3)]),
    (lambda x: x - x.sum(axis=-1), [(3, 3)]),
    (lambda x, y: x + y, [(2, 3, 4), (2, 1, 4)]),
    (lambda x, y: y * 2.0, [(3, 3), (3,)]),
    (lambda x, y: y.sum(axis=-1, keepdims=True) * x, [(3, 4), (3, 1)]),
]


def program_of(forward: Forward, shapes: list[tuple[int, ...]]) -> Program:
    program, captured = trace(forward, [CiuicTensor(shape) for shape in shapes], "Operator")
    assert captured == ()
    return program


def run(device: OpenclDevice, program: Program, *inputs: Any) -> npt.NDArray[Any]:
    placed = [device.upload(value) for value in inputs]
    return device.submit("expression", placed, program=program).wait().numpy()


@pytest.mark.opencl
@pytest.mark.parametrize(("forward", "shapes"), FUSED)
def test_a_program_becomes_one_kernel(
    tuned: OpenclDevice, forward: Forward, shapes: list[tuple[int, ...]]
) -> None:
    program = program_of(forward, shapes)
    assert tuned.supports("expression", program=program)
    assert fused_source(program).count("kernel void") == 1
    draw = np.random.default_rng(len(shapes[0]))
    inputs = [3 * draw.standard_normal(shape).astype(np.float32) for shape in shapes]
    want = expression.evaluate(program, *inputs)
    got = run(tuned, program, *inputs)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("forward", "shapes"), NOT_FUSED)
def test_what_does_not_fit_one_row_is_refused(
    forward: Forward, shapes: list[tuple[int, ...]]
) -> None:
    assert not can_fuse(program_of(forward, shapes))


def test_only_float32_is_fused() -> None:
    program, _ = trace(gelu, [CiuicTensor((3, 4), "float64")], "Operator")
    assert not can_fuse(program)


def test_sizes_are_no_part_of_the_source() -> None:
    sources = {fused_source(program_of(softmax, [(rows, 4 * rows)])) for rows in (2, 3, 50)}
    assert len(sources) == 1


@pytest.mark.opencl
def test_a_maximum_of_no_number_is_none(tuned: OpenclDevice) -> None:
    x = np.ones((3, 40), np.float32)
    x[1, 17] = np.nan
    x[2] = -np.inf
    got = run(tuned, program_of(row_max, [(3, 40)]), x)
    np.testing.assert_array_equal(got, [[2], [np.nan], [-np.inf]])


@pytest.mark.opencl
@pytest.mark.parametrize("constant", [float("inf"), float("-inf"), 1e-45, 0.1, -3.0, 1e300])
def test_constants_are_those_of_float32(gpu: OpenclDevice, constant: float) -> None:
    program = program_of(lambda x: x + constant, [(2, 3)])
    got = run(gpu, program, np.zeros((2, 3), np.float32))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got, np.full((2, 3), np.float32(constant)))
