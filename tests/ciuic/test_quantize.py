"""INT8 matrices: the format, its error bound and what it refuses."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ciuic.errors import ShapeError
from ciuic.quantize import QuantizedMatrix, block_of, quantize_columns, quantize_rows, rotate


@pytest.mark.parametrize("seed", range(5))
def test_columns_are_within_half_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = (rng.standard_normal((37, 11)) * 10.0 ** rng.integers(-4, 5, 11)).astype(np.float32)
    quantized = quantize_columns(weights)
    step = np.abs(weights).max(axis=0) / np.float32(127)
    np.testing.assert_array_equal(quantized.scales, step)
    error = np.abs(quantized.dequantize().astype(np.float64) - weights)
    assert (error <= 0.5001 * step).all(), f"seed {seed}"
    assert np.abs(quantized.values.astype(int)).max() == 127


@pytest.mark.parametrize("block", [2, 32, 64])
def test_rotated_columns_are_the_same_matrix(block: int) -> None:
    weights = np.random.default_rng(block).standard_normal((128, 9)).astype(np.float32)
    plain, rotated = quantize_columns(weights), quantize_columns(weights, block=block)
    assert rotated.block == block
    assert (rotated.values != plain.values).any()
    step = np.abs(weights).max(axis=0) / 127
    assert (np.abs(rotated.dequantize() - weights) <= 4 * step).all()
    # Rotated activations times a rotated weight are the product.
    x = np.random.default_rng(1).standard_normal((3, 128)).astype(np.float32)
    product = rotate(x, block) @ (rotated.values * rotated.scales)
    np.testing.assert_allclose(product, x @ rotated.dequantize(), atol=1e-4)


def test_rotation_spreads_an_outlier() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 128)).astype(np.float32)
    x[:, 5] = 200
    weights = rng.standard_normal((128, 9)).astype(np.float32)
    weights[5] = 0
    errors = []
    for block in (1, 64):
        weight = quantize_columns(weights, block=block)
        values, scales = quantize_rows(rotate(x, block))
        got = values.astype(float) @ weight.values * scales[:, None] * weight.scales
        errors.append(np.abs(got - x.astype(float) @ weights).max())
    assert errors[1] < errors[0] / 3


@pytest.mark.parametrize(("k", "block"), [(1, 1), (96, 32), (576, 64), (50, 2), (1024, 64)])
def test_blocks_divide_the_rows(k: int, block: int) -> None:
    assert block_of(k) == block


def test_rows_round_half_to_even() -> None:
    rows = np.array([[127.0, 0.5, 1.5, -2.5], [-254.0, 1.0, 3.0, 254.0]], np.float32)
    values, scales = quantize_rows(rows)
    np.testing.assert_array_equal(scales, np.float32([1, 2]))
    np.testing.assert_array_equal(values, [[127, 0, 2, -2], [-127, 0, 2, 127]])
    assert values.dtype == np.int8


@pytest.mark.parametrize("block", [0, 3, 4])
def test_a_block_that_does_not_fit_is_refused(block: int) -> None:
    message = f"^block must be a power of two up to 64 that divides 6, not {block}$"
    with pytest.raises(ShapeError, match=message):
        QuantizedMatrix(np.zeros((6, 2), np.int8), np.ones(2, np.float32), block)


def test_zeros_have_scale_one() -> None:
    quantized = quantize_columns(np.zeros((3, 2), np.float32))
    np.testing.assert_array_equal(quantized.scales, np.float32([1, 1]))
    assert not quantized.values.any()
    values, scales = quantize_rows(np.zeros((2, 3), np.float32))
    np.testing.assert_array_equal(scales, np.float32([1, 1]))
    assert not values.any()


def test_a_matrix_knows_its_sizes_and_is_equal_only_to_itself() -> None:
    matrix = quantize_columns(np.ones((6, 4), np.float32))
    twin = quantize_columns(np.ones((6, 4), np.float32))
    assert (matrix.shape, matrix.dtype, matrix.nbytes) == ((6, 4), np.int8, 6 * 4 + 4 * 4)
    assert repr(matrix) == "QuantizedMatrix(shape=(6, 4))"
    assert matrix == matrix
    assert matrix != twin
    assert len({matrix, twin}) == 2


@pytest.mark.parametrize(
    ("values", "scales", "message"),
    [
        (np.zeros((2, 2), np.int16), np.ones(2, np.float32), "values must be a non-empty INT8"),
        (np.zeros((0, 2), np.int8), np.ones(2, np.float32), "values must be a non-empty INT8"),
        (np.zeros(4, np.int8), np.ones(4, np.float32), "values must be a non-empty INT8"),
        (np.zeros((2, 3), np.int8), np.ones(2, np.float32), "scales must be float32 (3,)"),
        (np.zeros((2, 3), np.int8), np.ones(3, np.float64), "scales must be float32 (3,)"),
    ],
)
def test_a_matrix_refuses_what_does_not_fit(
    values: np.ndarray, scales: np.ndarray, message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        QuantizedMatrix(values, scales)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.zeros((2, 2)), "weights must be a non-empty float32 matrix"),
        (np.full((2, 2), np.nan, np.float32), "weights must be finite"),
    ],
)
def test_quantizing_refuses_what_it_cannot_represent(weights: np.ndarray, message: str) -> None:
    with pytest.raises(ShapeError, match=f"^{message}"):
        quantize_columns(weights)
