"""The golden model of the GEMM engine against plain arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from ciuic.abi.numerics import REQUANT_MAX_SHIFT, W4_GROUP, W4_SCALE_MAX, W4_SHIFT
from ciuic.errors import ShapeError
from ciuic.reference import ColumnParameters, encode_scales, gemm, gemm_w4, output_stage

W4_ERROR_GOAL = 2.0**-10


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


def parameters(bias: list[int], multiplier: list[int], shift: list[int]) -> ColumnParameters:
    return ColumnParameters(
        np.array(bias, np.int32), np.array(multiplier, np.uint16), np.array(shift, np.uint8)
    )


def test_products_are_exact(rng: np.random.Generator) -> None:
    a = rng.integers(-128, 128, (5, 3000), dtype=np.int8)
    w = rng.integers(-128, 128, (3000, 7), dtype=np.int8)
    np.testing.assert_array_equal(gemm(a, w), a.astype(np.int64) @ w.astype(np.int64))
    lowest = np.full((1, 100_000), -128, np.int8)
    assert gemm(lowest, lowest.T).item() == 128 * 128 * 100_000


def test_int4_products_are_rounded_once(rng: np.random.Generator) -> None:
    k, n = 3 * W4_GROUP + 5, 6
    a = rng.integers(-128, 128, (4, k), dtype=np.int8)
    w = rng.integers(-8, 8, (k, n), dtype=np.int8)
    scales = rng.integers(-W4_SCALE_MAX, W4_SCALE_MAX + 1, (4, n)).astype(np.int16)
    result = gemm_w4(a, w, scales)
    for row in range(4):
        for col in range(n):
            exact = sum(
                int(a[row, i]) * int(w[i, col]) * int(scales[i // W4_GROUP, col]) for i in range(k)
            )
            # Python rounds half to even.
            assert result[row, col] == round(Fraction(exact, 2**W4_SHIFT))


@pytest.mark.parametrize(
    ("total", "rounded"), [(127, 0), (128, 0), (129, 1), (384, 2), (-128, 0), (-129, -1), (640, 2)]
)
def test_int4_products_round_half_to_even(total: int, rounded: int) -> None:
    one = np.ones((1, 1), np.int8)
    assert gemm_w4(one, one, np.array([[total]], np.int16)).item() == rounded


def test_int4_products_saturate() -> None:
    groups = 512
    a = np.full((1, groups * W4_GROUP), -128, np.int8)
    w = np.full((groups * W4_GROUP, 1), -8, np.int8)
    scales = np.full((groups, 1), W4_SCALE_MAX, np.int16)
    exact = 128 * 8 * W4_GROUP * groups * W4_SCALE_MAX // 2**W4_SHIFT
    assert exact < 2**31  # the accumulators hold all of it
    assert gemm_w4(a, w, scales).item() == exact
    assert gemm_w4(a, w, np.full((groups, 1), -(2**15), np.int16)).item() == -(2**31)
    assert gemm_w4(a, -w - 1, np.full((groups, 1), -(2**15), np.int16)).item() > 0


@pytest.mark.parametrize("k", [W4_GROUP, 576, 1536, 8960])
@pytest.mark.parametrize("spread", [0.1, 1.0])
def test_encoded_scales_keep_the_product(rng: np.random.Generator, k: int, spread: float) -> None:
    m, n = 16, 24
    a = rng.integers(-128, 128, (m, k), dtype=np.int8)
    w = rng.integers(-8, 8, (k, n), dtype=np.int8)
    # As FP16 in a file: around one size, of either sign.
    real = (np.exp(spread * rng.standard_normal((k // W4_GROUP, n))) * 0.01).astype(np.float16)
    real *= rng.choice([-1, 1], real.shape).astype(np.float16)
    scales, units = encode_scales(real)
    result = gemm_w4(a, w, scales) * units

    groups = np.einsum(
        "mgi,gin->mgn",
        a.reshape(m, -1, W4_GROUP).astype(np.float64),
        w.reshape(-1, W4_GROUP, n).astype(np.float64),
    )
    exact = np.einsum("mgn,gn->mn", groups, real.astype(np.float64))
    error = np.abs(result - exact)
    bound = units * (0.5 + np.abs(groups).sum(axis=1) / 2 ** (W4_SHIFT + 1))
    assert (error <= bound * (1 + 1e-9)).all()
    assert error.max() < W4_ERROR_GOAL * np.sqrt(np.mean(exact**2))


def test_scales_of_zero_give_zero() -> None:
    scales, units = encode_scales(np.zeros((2, 3)))
    assert not scales.any()
    assert (units > 0).all()


def test_scales_must_be_finite() -> None:
    with pytest.raises(ShapeError, match=r"^scales must be a finite matrix \(groups, n\), not"):
        encode_scales(np.array([[np.inf]]))


def test_requantized_results_round_half_to_even_and_saturate() -> None:
    sums = np.array([[1, 3, 5, -1, -3, -5, 255, 1000, -1000]], np.int32)
    half = parameters([0] * 9, [1 << 15] * 9, [16] * 9)
    result = output_stage(sums, parameters=half, requantize=True)
    assert result.dtype == np.int8
    assert result.tolist() == [[0, 2, 2, 0, -2, -2, 127, 127, -128]]


def test_requantized_results_are_those_of_fractions(rng: np.random.Generator) -> None:
    n = 200
    sums = rng.integers(-(2**31), 2**31, (3, n)).astype(np.int32)
    given = parameters(
        rng.integers(-(2**31), 2**31, n).tolist(),
        rng.integers(2**15, 2**16, n).tolist(),
        rng.integers(16, REQUANT_MAX_SHIFT + 1, n).tolist(),
    )
    residual = rng.integers(-128, 128, (3, n)).astype(np.int8)
    result = output_stage(sums, parameters=given, residual=residual, requantize=True)
    for row in range(3):
        for col in range(n):
            scaled = (int(sums[row, col]) + int(given.bias[col])) * int(given.multiplier[col])
            rounded = round(Fraction(scaled, 2 ** int(given.shift[col])))
            expected = max(-128, min(127, rounded + int(residual[row, col])))
            assert result[row, col] == expected


def test_int32_results_wrap() -> None:
    top = 2**31 - 1
    sums = np.array([[top, top, 5]], np.int32)
    given = parameters([1, 0, -7], [0, 0, 0], [0, 0, 0])
    assert output_stage(sums, parameters=given).tolist() == [[-(2**31), top, -2]]
    residual = np.array([[1, 1, 2]], np.int32)
    assert output_stage(sums, parameters=given, residual=residual).tolist() == [
        [-(2**31) + 1, -(2**31), 0]
    ]


def test_factors_are_encoded_to_sixteen_bits(rng: np.random.Generator) -> None:
    factors = np.exp(rng.uniform(np.log(1e-9), np.log(60_000), 1000))
    given = ColumnParameters.encode(factors)
    value = given.multiplier * 2.0 ** -given.shift.astype(np.float64)
    exact = given.multiplier > 0
    assert (np.abs(value[exact] / factors[exact] - 1) <= 2.0**-16).all()
    assert (factors[~exact] * 2.0**32 < 0.5).all()  # nothing that any sum would show


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf, 2.0**17])
def test_factors_that_cannot_be_encoded_are_refused(factor: float) -> None:
    with pytest.raises(ShapeError, match=r"^factors must be"):
        ColumnParameters.encode(np.array([factor]))


def test_results_cannot_be_requantized_without_factors() -> None:
    with pytest.raises(ShapeError, match=r"^requantized results need column parameters$"):
        output_stage(np.zeros((1, 1), np.int32), requantize=True)


def test_shifts_beyond_the_hardware_are_refused() -> None:
    with pytest.raises(ShapeError, match=r"^shift must be at most 47, not 48$"):
        parameters([0], [1], [48])
