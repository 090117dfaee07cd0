"""Programs: which of them are a softmax."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ciuic.expression import softmax_scale
from ciuic.tensor import CiuicTensor, trace

Forward = Callable[[CiuicTensor], CiuicTensor]


def softmax(x: CiuicTensor, axis: int = -1, keepdims: bool = True) -> CiuicTensor:
    e = (x - x.max(axis=axis, keepdims=keepdims)).exp()
    return e / e.sum(axis=axis, keepdims=keepdims)


def unlike(x: CiuicTensor) -> CiuicTensor:
    e = (x - x.max(axis=-1, keepdims=True)).exp()
    return x / e.sum(axis=-1, keepdims=True)


def of_another(x: CiuicTensor) -> CiuicTensor:
    e = (x - (x + 1).max(axis=-1, keepdims=True)).exp()
    return e / e.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(
    ("forward", "scale"),
    [
        (softmax, 1.0),
        (lambda x: softmax(x * 0.125), 0.125),
        (lambda x: softmax(2.0 * x), 2.0),
        (lambda x: softmax(x / 8.0), 0.125),
        (lambda x: softmax(x / 8.0 * 2.0), 0.25),
    ],
)
def test_a_softmax_is_recognised_with_its_scale(forward: Forward, scale: float) -> None:
    program, _ = trace(forward, [CiuicTensor((3, 4))], "it")
    assert softmax_scale(program) == scale


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: softmax(x, axis=0),
        lambda x: softmax(x * -1.0),
        lambda x: softmax(x + 1.0),
        lambda x: softmax(x * x),
        lambda x: softmax(1.0 / x),
        lambda x: softmax(x) * 2.0,
        lambda x: softmax(softmax(x)),
        unlike,
        of_another,
        lambda x: x.exp(),
    ],
)
def test_what_is_no_softmax_is_not_taken_for_one(forward: Forward) -> None:
    program, _ = trace(forward, [CiuicTensor((3, 4))], "it")
    assert softmax_scale(program) is None


def test_a_square_input_does_not_hide_the_axis() -> None:
    program, _ = trace(lambda x: softmax(x, axis=0), [CiuicTensor((4, 4))], "it")
    assert softmax_scale(program) is None
