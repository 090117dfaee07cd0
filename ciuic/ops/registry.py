"""The operators that Ciuic brings, by name."""

from __future__ import annotations

from . import (
    attention,
    elementwise,
    experts,
    expression,
    hadamard,
    latent_attention,
    linear,
    linear_float32,
    linear_int4,
    rms_norm,
    rope,
    rows,
    softmax,
)
from .operator import Operator

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        linear.OPERATOR,
        linear_int4.OPERATOR,
        linear_float32.OPERATOR,
        hadamard.OPERATOR,
        rms_norm.OPERATOR,
        rope.OPERATOR,
        attention.OPERATOR,
        latent_attention.OPERATOR,
        softmax.OPERATOR,
        elementwise.SILU_MUL,
        elementwise.ADD,
        rows.EMBEDDING,
        rows.KV_APPEND,
        rows.SLICE_ROWS,
        rows.JOIN_COLUMNS,
        experts.ROUTE_TOKENS,
        experts.ADD_ROWS,
        expression.OPERATOR,
    )
}
