"""add and silu_mul: element by element over two arrays of one shape."""

from __future__ import annotations

import numpy as np

from ciuic.quantize import Float32Array

from .operator import Cost, Operator, Shape, Spec, elementwise_cost, require


def _same_shape(a: Spec, b: Spec, name: str) -> Shape:
    require(
        a.shape == b.shape and a.dtype == b.dtype == np.float32,
        name,
        "two float32 arrays of one shape",
        (a, b),
    )
    return a.shape


def _add_shape(x: Spec, y: Spec) -> Shape:
    return _same_shape(x, y, "add")


def _add_cost(x: Spec, y: Spec) -> Cost:
    return elementwise_cost(x.shape, flops=1, arrays=3)


def _add(x: Float32Array, y: Float32Array, *, out: Float32Array | None = None) -> Float32Array:
    return np.add(x, y, out=out)


def _silu_mul_shape(gate: Spec, up: Spec) -> Shape:
    return _same_shape(gate, up, "silu_mul")


def _silu_mul_cost(gate: Spec, up: Spec) -> Cost:
    return elementwise_cost(gate.shape, flops=6, arrays=3)


def _silu_mul(gate: Float32Array, up: Float32Array) -> Float32Array:
    # exp of the negative magnitude never overflows: sigmoid(-g) = e / (1 + e), e = exp(-|g|).
    exact = gate.astype(np.float64)
    small = np.exp(-np.abs(exact))
    exact *= np.where(gate >= 0, 1.0, small) / (1.0 + small)
    return (exact * up).astype(np.float32)


ADD = Operator("add", _add_shape, _add_cost, _add, takes_out=True)
SILU_MUL = Operator("silu_mul", _silu_mul_shape, _silu_mul_cost, _silu_mul)
