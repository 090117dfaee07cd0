"""Shape rules and cost rules of the operators."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import pytest

from ciuic.errors import ShapeError, UsageError
from ciuic.ops import OPERATORS, Cost


class Spec(NamedTuple):
    """What rules look at."""

    shape: tuple[int, ...]
    dtype: Any = np.dtype(np.float32)


INT8, INT32 = np.dtype(np.int8), np.dtype(np.int32)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "message"),
    [
        (
            "linear",
            [Spec((2, 3)), Spec((4, 5), INT8)],
            {},
            (
                "inputs of linear must be float32 (t, k), int8 (k, n) and float32 (n,) or no bias, "
                "not float32 (2, 3), int8 (4, 5)"
            ),
        ),
        ("linear", [Spec((2, 4)), Spec((4, 5))], {}, "inputs of linear must"),
        ("linear", [Spec((2, 4)), Spec((4, 5), INT8), Spec((4,))], {}, "inputs of linear must"),
        ("linear_float32", [Spec((2, 4)), Spec((4, 5), INT8)], {}, "inputs of linear_float32"),
        ("rms_norm", [Spec((2, 4)), Spec((5,))], {"eps": 1e-5}, "inputs of rms_norm must"),
        ("rope", [Spec((2, 1, 4)), Spec((2,))], {"theta": 1e4}, "inputs of rope must"),
        ("rope", [Spec((2, 1, 3)), Spec((2,), INT32)], {"theta": 1e4}, "inputs of rope must"),
        (
            "attention",
            [Spec((2, 3, 4)), Spec((9, 2, 4)), Spec((9, 2, 4))],
            {"offset": 0, "scale": 1.0},
            "inputs of attention must be",
        ),
        (
            "attention",
            [Spec((2, 2, 4)), Spec((9, 2, 4)), Spec((9, 2, 4))],
            {"offset": 8, "scale": 1.0},
            (
                "inputs of attention must be float32 (t, heads, head_dim) and twice "
                "(T, kv_heads, head_dim) with T >= 8 + t"
            ),
        ),
        ("hadamard", [Spec((2, 12))], {"block": 8}, "block must be a power of two up to 64 that"),
        ("hadamard", [Spec((2, 12))], {"block": 3}, "block must be a power of two up to 64 that"),
        ("hadamard", [Spec((2, 128))], {"block": 128}, "block must be a power of two up to 64"),
        ("hadamard", [Spec((12,))], {"block": 4}, "inputs of hadamard must"),
        ("softmax", [Spec((2, 3))], {"scale": 0.0}, "inputs of softmax must"),
        ("silu_mul", [Spec((2, 3)), Spec((2, 4))], {}, "inputs of silu_mul must"),
        ("add", [Spec((2, 3)), Spec((2, 3), INT32)], {}, "inputs of add must"),
        ("embedding", [Spec((2,)), Spec((9, 4))], {}, "inputs of embedding must"),
        ("kv_append", [Spec((4, 2)), Spec((2, 2))], {"offset": 3}, "inputs of kv_append must"),
        ("slice_rows", [Spec((4, 2))], {"start": 2, "stop": 2}, "inputs of slice_rows must"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    op: str, inputs: list[Spec], attributes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        OPERATORS[op].shape(*inputs, **attributes)


def test_an_unknown_softmax_is_refused() -> None:
    inputs = [Spec((2, 2, 4)), Spec((9, 2, 4)), Spec((9, 2, 4))]
    with pytest.raises(
        UsageError, match=r"^softmax must be 'exact', 'q16', 'int8x<block>' or None, not 'q8'$"
    ):
        OPERATORS["attention"].shape(*inputs, offset=0, scale=1.0, softmax="q8")


def test_ids_outside_the_table_are_refused() -> None:
    table = np.zeros((5, 2), np.float32)
    for ids in ([0, 5], [-1, 0]):
        with pytest.raises(ShapeError, match=r"^ids must be from 0 to 4, not"):
            OPERATORS["embedding"].kernel(np.array(ids, np.int32), table)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "cost"),
    [
        ("linear", [Spec((3, 10)), Spec((10, 7), INT8)], {}, Cost(420, 70 + 4 * (30 + 21 + 7))),
        ("linear_float32", [Spec((3, 10)), Spec((10, 7))], {}, Cost(420, 4 * (70 + 30 + 21 + 7))),
        ("add", [Spec((3, 10)), Spec((3, 10))], {}, Cost(30, 360)),
        (
            "attention",
            [Spec((1, 4, 8)), Spec((99, 2, 8)), Spec((99, 2, 8))],
            {"offset": 9, "scale": 1.0},
            Cost(4 * 10 * (4 * 8 + 8), 4 * (2 * 32 + 2 * 160)),
        ),
        ("slice_rows", [Spec((9, 4))], {"start": 1, "stop": 3}, Cost(0, 64)),
    ],
)
def test_costs(op: str, inputs: list[Spec], attributes: dict[str, Any], cost: Cost) -> None:
    assert OPERATORS[op].cost(*inputs, **attributes) == cost
