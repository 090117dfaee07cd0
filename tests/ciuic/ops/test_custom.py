"""Custom operators: registering and tracing."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from ciuic.errors import UsageError
from ciuic.ops import CustomOperator, register_operator, registered_operator
from ciuic.tensor import CiuicTensor


class Doubled(CustomOperator):
    """Counts how often it is traced; forgets to call its base's constructor."""

    def __init__(self, factor: float = 2.0) -> None:
        self.factor = factor
        self.calls = 0

    def forward(self, x: CiuicTensor) -> CiuicTensor:
        self.calls += 1
        return x * self.factor


def test_it_can_be_called_like_a_function() -> None:
    x = CiuicTensor.from_numpy(np.arange(3, dtype=np.float32))
    np.testing.assert_array_equal(Doubled(3.0)(x).numpy(), [0, 3, 6])


def test_it_is_traced_once_for_shapes() -> None:
    operator = Doubled()
    small, large = CiuicTensor((2, 3)), CiuicTensor((4, 3))
    first, _ = operator.traced([small])
    again, _ = operator.traced([small])
    other, _ = operator.traced([large])
    assert first is again
    assert other != first
    assert operator.calls == 2


def test_names_are_taken_once() -> None:
    register_operator("OnlyOnce", Doubled)
    assert registered_operator("OnlyOnce") is Doubled
    with pytest.raises(UsageError, match=r"^operator name must be new, not 'OnlyOnce'$"):
        register_operator("OnlyOnce", Doubled)


@pytest.mark.parametrize(
    ("name", "operator", "message"),
    [
        ("softmax", Doubled, "operator name must be new, not 'softmax'"),
        ("not a name", Doubled, "operator name must be an identifier, not 'not a name'"),
        (3, Doubled, "operator name must be an identifier, not 3"),
        ("Fine", int, "operator must be a subclass of CustomOperator, not <class 'int'>"),
        ("Fine", "x", "operator must be a subclass of CustomOperator, not 'x'"),
    ],
)
def test_what_cannot_be_registered_is_refused(name: Any, operator: Any, message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}$"):
        register_operator(name, operator)
