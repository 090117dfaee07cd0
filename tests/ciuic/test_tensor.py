"""CiuicTensor: values, recorded arithmetic, copies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.errors import ShapeError, UsageError
from ciuic.tensor import CiuicTensor, trace


def draw(seed: int, *shape: int, dtype: str = "float32") -> npt.NDArray[Any]:
    return np.random.default_rng(seed).uniform(0.5, 2, shape).astype(dtype)


def tensor(array: npt.NDArray[Any]) -> CiuicTensor:
    return CiuicTensor.from_numpy(array)


class Fetched:
    """An array on a device that counts how often it is fetched."""

    def __init__(self, contents: npt.NDArray[Any]) -> None:
        self.contents = contents
        self.shape, self.dtype = contents.shape, contents.dtype
        self.fetches = 0

    def numpy(self) -> npt.NDArray[Any]:
        self.fetches += 1
        return self.contents


def test_a_new_tensor_is_zeros() -> None:
    zeros = CiuicTensor((2, 3), "float32")
    assert (zeros.shape, zeros.dtype, zeros.nbytes) == ((2, 3), np.float32, 24)
    assert repr(zeros) == "CiuicTensor(shape=(2, 3), dtype=float32)"
    np.testing.assert_array_equal(zeros.numpy(), np.zeros((2, 3), np.float32))
    assert zeros  # a tensor is true, whatever it holds


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((2, 0), "float32", "shape must be positive sizes, not (2, 0)"),
        ((2, 1.5), "float32", "shape must be positive sizes, not (2, 1.5)"),
        ((2,), "complex64", "dtype must be one of"),
        ((2,), "no such", "dtype must be one of"),
    ],
)
def test_shapes_and_dtypes_are_checked(shape: Any, dtype: str, message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        CiuicTensor(shape, dtype)


def test_contents_are_copied_in_and_read_only_out() -> None:
    array = draw(0, 3)
    made = tensor(array)
    before = array.copy()
    array[:] = 0
    np.testing.assert_array_equal(made.numpy(), before)
    with pytest.raises(ValueError, match=r"read-only"):
        made.numpy()[0] = 1


BINARY: list[Callable[[Any, Any], Any]] = [
    lambda a, b: a + b,
    lambda a, b: a - b,
    lambda a, b: a * b,
    lambda a, b: a / b,
]


@pytest.mark.parametrize("operation", BINARY)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arithmetic_is_numpys(operation: Callable[[Any, Any], Any], dtype: str) -> None:
    a, b = draw(1, 4, 5, dtype=dtype), draw(2, 4, 1, dtype=dtype)
    for left, right in ((a, b), (b, a), (a, 1.5), (1.5, a)):
        wrapped = [tensor(x) if isinstance(x, np.ndarray) else x for x in (left, right)]
        want = operation(left, right)
        got = operation(*wrapped).numpy()
        np.testing.assert_array_equal(got, want)
        assert got.dtype == want.dtype


@pytest.mark.parametrize("axis", [None, 0, 1, -1, -2])
@pytest.mark.parametrize("keepdims", [False, True])
def test_reductions_are_numpys(axis: int | None, keepdims: bool) -> None:
    array = draw(3, 6, 7)
    for name in ("max", "sum"):
        got = getattr(tensor(array), name)(axis=axis, keepdims=keepdims)
        want = getattr(array, name)(axis=axis, keepdims=keepdims)
        assert got.shape == np.shape(want)
        np.testing.assert_array_equal(got.numpy(), want)


def test_exp_and_matmul_are_numpys() -> None:
    a, b = draw(4, 2, 3, 4), draw(5, 4, 5)
    np.testing.assert_array_equal(tensor(a).exp().numpy(), np.exp(a))
    np.testing.assert_array_equal((tensor(a) @ tensor(b)).numpy(), a @ b)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tensor(draw(0, 2, 3)) + tensor(draw(0, 2, 4)), "shapes must broadcast, not"),
        (lambda: tensor(draw(0, 2)) + tensor(draw(0, 2, dtype="float64")), "operands of add must"),
        (lambda: tensor(np.arange(3, dtype=np.int32)).exp(), "operands of exp must have one"),
        (lambda: tensor(draw(0, 2, 3)).sum(axis=2), "axis must be from -2 to 1, not 2"),
        (lambda: tensor(draw(0, 2, 3)) @ tensor(draw(0, 2, 3)), "shapes must be (..., m, k) and"),
    ],
)
def test_what_does_not_fit_is_refused_when_it_is_written(
    make: Callable[[], CiuicTensor], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        make()


def test_an_expression_keeps_the_contents_of_when_it_was_written() -> None:
    one, two = np.full(3, 1, np.float32), np.full(3, 2, np.float32)
    cell = tensor(one)
    total = cell + cell
    cell.copy_from(tensor(two))
    np.testing.assert_array_equal(total.numpy(), one + one)
    np.testing.assert_array_equal(cell.numpy(), two)


def test_copying_does_not_change_what_somebody_still_sees() -> None:
    cell = tensor(np.zeros(3, np.float32))
    seen = cell.numpy()
    cell.copy_from(tensor(np.ones(3, np.float32)))
    np.testing.assert_array_equal(seen, np.zeros(3))
    np.testing.assert_array_equal(cell.numpy(), np.ones(3))


def test_copying_uses_the_memory_that_is_there() -> None:
    cell = tensor(np.zeros(3, np.float32))
    address = cell.numpy().ctypes.data
    for number in range(3):
        cell.copy_from(tensor(np.full(3, number, np.float32)))
        assert cell.numpy().ctypes.data == address
        assert cell.numpy()[0] == number


def test_copying_from_itself_or_from_another_shape() -> None:
    cell = tensor(draw(0, 2))
    before = cell.numpy()
    cell.copy_from(cell)
    np.testing.assert_array_equal(cell.numpy(), before)
    with pytest.raises(ShapeError, match=r"^source must be float32 \(2,\), not float32 \(3,\)$"):
        cell.copy_from(tensor(draw(0, 3)))


def test_contents_on_a_device_are_fetched_once_and_only_when_asked_for() -> None:
    remote = Fetched(draw(6, 4))
    cell = CiuicTensor((4,), "float32")
    cell.copy_from(CiuicTensor.from_device(remote))
    doubled = cell + cell
    assert remote.fetches == 0
    np.testing.assert_array_equal(doubled.numpy(), 2 * remote.contents)
    np.testing.assert_array_equal(cell.numpy(), remote.contents)
    assert remote.fetches == 1


def test_a_trace_names_each_value_once() -> None:
    def forward(x: CiuicTensor) -> CiuicTensor:
        e = (x - x.max(axis=-1, keepdims=True)).exp()
        return e / e.sum(axis=-1, keepdims=True)

    program, captured = trace(forward, [CiuicTensor((2, 5))], "Softmax")
    assert [step.op for step in program.steps] == ["max", "subtract", "exp", "sum", "divide"]
    assert program.inputs == ((2, 5),)
    assert program.shape == (2, 5)
    assert captured == ()


def test_a_trace_brings_along_the_tensors_that_it_uses() -> None:
    weight = tensor(draw(7, 5))
    program, captured = trace(lambda x: x * weight + 1, [CiuicTensor((2, 5))], "Scale")
    assert program.inputs == ((2, 5), (5,))
    np.testing.assert_array_equal(captured[0].numpy(), weight.numpy())


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (lambda x: tensor(x.numpy() + 1), "forward of a custom operator must use tensor methods"),
        (lambda x: x, "Bad must return a tensor computed by tensor methods, not"),
        (lambda _: 1, "Bad must return a tensor computed by tensor methods, not 1"),
    ],
)
def test_what_cannot_be_traced_is_refused(forward: Callable[..., Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{message}"):
        trace(forward, [CiuicTensor((2, 5))], "Bad")
