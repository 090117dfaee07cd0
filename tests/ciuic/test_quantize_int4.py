"""INT4 matrices: the format, its error bound and what it refuses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.errors import ShapeError
from ciuic.quantize_int4 import INT4, GroupQuantizedMatrix, quantize_groups


def of_rows(groups: npt.NDArray[Any], k: int) -> npt.NDArray[Any]:
    return np.repeat(groups, 32, axis=0)[:k]


def draw(seed: int, k: int, n: int) -> npt.NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((k, n)) * 10.0 ** rng.integers(-4, 5, n)).astype(np.float32)


def largest_rule(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Return what Q4_0's usual rule makes of weights: the largest element of a group is -8."""
    result = np.zeros(weights.shape)
    for start in range(0, len(weights), 32):
        part = weights[start : start + 32].astype(float)
        at = np.abs(part).argmax(axis=0)
        scale = part[at, np.arange(part.shape[1])] / -8
        integers = np.clip(np.rint(part / np.where(scale == 0, 1, scale)), -8, 7)
        result[start : start + 32] = integers * scale
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "n"), [(1, 3), (32, 5), (75, 11), (320, 4)])
def test_each_group_is_at_least_as_near_as_by_the_usual_rule(seed: int, k: int, n: int) -> None:
    weights = draw(seed, k, n)
    quantized = quantize_groups(weights)
    starts = np.arange(0, k, 32)
    got, usual = (
        np.add.reduceat((matrix - weights.astype(float)) ** 2, starts, axis=0)
        for matrix in (quantized.dequantize(), largest_rule(weights))
    )
    # A scale has 15 bits of its column's largest.
    slack = 1e-3 * usual + 32 * (8 * np.abs(weights).max(axis=0) * 2.0**-16) ** 2
    assert (got <= usual + slack).all(), f"seed {seed}"
    if k == 320:
        assert got.sum() < 0.95 * usual.sum()


def test_integers_and_scales_that_fit_come_back() -> None:
    rng = np.random.default_rng(0)
    integers = rng.integers(-8, 8, (96, 7), dtype=np.int8)
    integers[::32] = -8
    scales = rng.integers(-30000, 30001, (3, 7)).astype(np.float32)
    scales[0] = 2**15 - 1
    matrix = GroupQuantizedMatrix.encode(integers, scales)
    np.testing.assert_array_equal(matrix.values, integers)
    np.testing.assert_array_equal(matrix.scales, scales)
    np.testing.assert_array_equal(matrix.dequantize(), integers * of_rows(scales, 96))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("largest", [1e-6, 1.0, 1e6])
def test_offsets_are_rounded_little(seed: int, largest: float) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-8, 8, (70, 5), dtype=np.int8)
    scales = rng.standard_normal((3, 5))
    offsets = largest * rng.standard_normal((3, 5))
    matrix = GroupQuantizedMatrix.encode(integers, scales, offsets)
    assert matrix.offsets is not None
    exact = integers * of_rows(scales, 70) + of_rows(offsets, 70)
    step = np.maximum(np.abs(scales).max(axis=0) * 2.0**-16, np.abs(offsets).max(axis=0) * 2.0**-31)
    bound = 8.5 * 1.0001 * step + 2.0**-22 * np.abs(exact)
    assert (np.abs(matrix.dequantize() - exact) <= bound).all(), f"seed {seed}"


def test_zeros_stay_zeros() -> None:
    quantized = quantize_groups(np.zeros((40, 2), np.float32))
    assert not quantized.values.any()
    assert not quantized.dequantize().any()


def test_a_matrix_knows_its_sizes_and_is_equal_only_to_itself() -> None:
    matrix = quantize_groups(np.ones((40, 4), np.float32))
    twin = quantize_groups(np.ones((40, 4), np.float32))
    assert (matrix.shape, matrix.dtype, matrix.nbytes) == (
        (40, 4),
        INT4,
        40 * 4 + 2 * 2 * 4 + 4 * 4,
    )
    assert repr(matrix) == "GroupQuantizedMatrix(shape=(40, 4))"
    assert matrix == matrix
    assert matrix != twin
    assert len({matrix, twin}) == 2


GOOD: dict[str, npt.NDArray[Any]] = {
    "values": np.zeros((33, 2), np.int8),
    "scales": np.ones((2, 2), np.int16),
    "units": np.ones(2, np.float32),
}


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("values", np.zeros((33, 2), np.int16), "values must be a non-empty INT8 matrix"),
        ("values", np.zeros((0, 2), np.int8), "values must be a non-empty INT8 matrix"),
        ("values", np.full((33, 2), 8, np.int8), "values must be from -8 to 7, not 8 to 8"),
        ("values", np.zeros((16385, 2), np.int8), "values must have at most 16384 rows"),
        ("scales", np.ones((1, 2), np.int16), "scales must be int16 (2, 2)"),
        ("scales", np.ones((2, 2), np.int32), "scales must be int16 (2, 2)"),
        ("scales", np.full((2, 2), -(2**15), np.int16), "scales must be at least -32767"),
        ("units", np.ones(3, np.float32), "units must be float32 (2,)"),
        ("offsets", np.ones((1, 2), np.int32), "offsets must be int32 (2, 2) or None"),
        ("offsets", np.ones((2, 2), np.float32), "offsets must be int32 (2, 2) or None"),
    ],
)
def test_a_matrix_refuses_what_does_not_fit(
    name: str, array: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        GroupQuantizedMatrix(**{**GOOD, name: array})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros((2, 2)), "weights must be a non-empty float32 matrix"),
        (np.full((2, 2), np.nan, np.float32), "weights must be finite"),
        (np.zeros((16385, 1), np.float32), "values must have at most 16384 rows"),
    ],
)
def test_quantizing_refuses_what_it_cannot_represent(
    weights: npt.NDArray[Any], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{message}"):
        quantize_groups(weights)
