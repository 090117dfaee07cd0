"""The softmax's golden model against float64: every claim of its module docstring."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.abi import Format, numerics
from ciuic.abi.numerics import SoftmaxScale
from ciuic.errors import ShapeError
from ciuic.reference import causal_lengths, softmax, valid_lengths
from ciuic.reference.softmax import MAX_ERROR, MAX_SUM_ERROR, exponential, reciprocal

Floats = npt.NDArray[np.float64]

DTYPES = (np.int8, np.int16, np.int32)
SEEDS = range(6)
ONE_16 = 2.0**-16


def exact(scores: npt.NDArray[Any], scale: float) -> Floats:
    """Return the softmax (rows, cols) in float64."""
    distance = scores.max(axis=1, keepdims=True).astype(np.float64) - scores
    powers = np.exp(-scale * distance)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fractions(results: npt.NDArray[Any], out: Format) -> Floats:
    return results / 2.0 ** (16 if out is Format.Q0_16 else 8)


def random_scores(rng: np.random.Generator) -> tuple[npt.NDArray[Any], float]:
    """Return scores of one of several kinds and a scale that makes them interesting."""
    cols = int(rng.choice([1, 2, 3, 8, 64, 197, 1024, 4096]))
    rows = max(1, 20_000 // cols)
    dtype = DTYPES[rng.integers(len(DTYPES))]
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = rng.integers(5)
    if kind == 0:
        values = rng.integers(low, high, (rows, cols), endpoint=True)
    elif kind == 1:
        values = rng.integers(0, 3, (rows, cols))
    elif kind == 2:
        values = np.clip(rng.normal(0, high / 6, (rows, cols)), low, high)
    elif kind == 3:  # one large element against many equal ones
        values = np.full((rows, cols), -rng.integers(1, 100))
        values[:, rng.integers(cols)] = 0
    else:  # a few large ones, close to each other, against a long tail
        values = rng.integers(-20, 0, (rows, cols))
        values[:, :4] += 19
    scores = values.astype(dtype)
    span = float(scores.max()) - float(scores.min()) + 1
    return scores, math.exp(rng.uniform(math.log(0.01), math.log(200))) / span


@pytest.mark.parametrize("seed", SEEDS)
def test_error_stays_within_its_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        scores, scale = random_scores(rng)
        wanted = exact(scores, scale)
        for out in (Format.Q0_16, Format.Q0_8):
            results = softmax(scores, scale=SoftmaxScale.encode(scale), out=out)
            error = np.abs(fractions(results, out) - wanted).max()
            assert error <= MAX_ERROR[out], (seed, out, scores.shape, scores.dtype, scale)
            sums = fractions(results, out).sum(axis=1)
            if out is Format.Q0_16:
                assert error < 4.7 * ONE_16
                assert np.abs(sums - 1).max() < 9 * ONE_16 < MAX_SUM_ERROR
            else:
                alone = (results == 255).any(axis=1) & (np.count_nonzero(results, axis=1) == 1)
                assert ((sums == 1) | alone).all(), (seed, scores.shape, scores.dtype, scale)


@pytest.mark.parametrize("seed", SEEDS)
def test_order_of_elements_is_kept(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(60):
        scores, scale = random_scores(rng)
        if scores.shape[1] == 1:
            continue
        wanted = exact(scores, scale)
        second, first = np.argsort(wanted, axis=1, kind="stable")[:, -2:].T
        rows = np.arange(scores.shape[0])
        lead = wanted[rows, first] - wanted[rows, second]
        for out, sharp in ((Format.Q0_16, 1), (Format.Q0_8, 0)):
            results = softmax(scores, scale=SoftmaxScale.encode(scale), out=out).astype(np.int64)
            others = results.copy()
            others[rows, first] = -1
            clear = lead > MAX_ERROR[out]
            assert (results[rows, first] - others.max(axis=1) >= sharp)[clear].all(), (seed, out)


def test_exponential_over_its_whole_domain() -> None:
    """All exponents of 18 fraction bits below the limit: error, and never a rise."""
    scale = SoftmaxScale(1 << (numerics.MULTIPLIER_BITS - 1), numerics.PRE_SHIFT)
    step = 1 << 20
    before = 2.0
    for start in range(0, numerics.EXPONENT_LIMIT << numerics.EXPONENT_FRACTION, step):
        distance = np.arange(start, start + step)
        mantissa, halvings = exponential(distance, scale)
        value = mantissa * 2.0 ** -(numerics.MANTISSA_FRACTION + halvings.astype(np.float64))
        wanted = 2.0 ** (-distance / 2.0**numerics.EXPONENT_FRACTION)
        unit = 2.0 ** -(numerics.MANTISSA_FRACTION + halvings.astype(np.float64))
        assert (np.abs(value - wanted) <= 1.12 * unit).all()
        assert value[0] <= before
        assert (np.diff(value) <= 0).all()
        before = float(value[-1])


def test_exponential_ends_at_its_limit() -> None:
    scale = SoftmaxScale(1 << (numerics.MULTIPLIER_BITS - 1), numerics.PRE_SHIFT)
    limit = numerics.EXPONENT_LIMIT << numerics.EXPONENT_FRACTION
    mantissa, halvings = exponential(np.array([0, limit - 1, limit, 2**32 - 1]), scale)
    assert mantissa.tolist() == [1 << numerics.MANTISSA_FRACTION, 2**16, 0, 0]
    assert halvings.tolist() == [0, 31, 0, 0]


@pytest.mark.parametrize("seed", SEEDS)
def test_exponent_is_never_too_large_and_hardly_too_small(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(200):
        scale = SoftmaxScale.encode(float(2.0 ** rng.uniform(-52, 5)))
        distance = rng.integers(0, 2 ** rng.integers(1, 33), 1000)
        exponent = distance * scale.value * math.log2(math.e)
        mantissa, halvings = exponential(distance, scale)
        near = (mantissa > 0) & (exponent < 24)
        value = mantissa[near] * 2.0 ** -(numerics.MANTISSA_FRACTION + halvings[near].astype(float))
        table_error = 1.12 * 2.0 ** -(numerics.MANTISSA_FRACTION + halvings[near].astype(float))
        low, high = 2.0 ** -exponent[near], 2.0 ** (2**-17 + 2**-18 - exponent[near])
        assert (value >= low - table_error).all(), (seed, scale)
        assert (value <= high + table_error).all(), (seed, scale)
        assert (exponent[mantissa == 0] >= numerics.EXPONENT_LIMIT).all(), (seed, scale)


@pytest.mark.parametrize("norm", [0, 1, 5, 12])
def test_reciprocal_over_its_whole_domain(norm: int) -> None:
    bits = numerics.TABLE_BITS + numerics.STEP_BITS
    fraction = np.arange(1 << bits)
    total = ((1 << bits) + fraction) << (numerics.SUM_FRACTION - bits + norm)
    inverse, norms = reciprocal(total)
    wanted = 2.0**numerics.RECIPROCAL_FRACTION / (1 + fraction / 2.0**bits)
    assert (norms == norm).all()
    assert np.abs(inverse - wanted).max() <= 2.0
    assert inverse.max() < 1 << numerics.RECIPROCAL_FRACTION


def test_reciprocal_ignores_bits_below_its_position() -> None:
    total = np.array([(1 << numerics.SUM_FRACTION) + (1 << 12) - 1])
    assert reciprocal(total)[0] == reciprocal(np.array([1 << numerics.SUM_FRACTION]))[0]


@pytest.mark.parametrize("table", [numerics.exp2_table(), numerics.reciprocal_table()])
def test_tables_fit_their_fields(table: numerics.Table) -> None:
    assert len(table) == 1 << numerics.TABLE_BITS
    assert all(0 < slope < 1 << numerics.SLOPE_BITS for _, slope in table)
    assert all(here - slope == there for (here, slope), (there, _) in itertools.pairwise(table))


@pytest.mark.parametrize("cols", [1, 2, 3, 300, 3000, 4096])
def test_equal_elements_share_exactly_one(cols: int) -> None:
    results = softmax(np.zeros((1, cols), np.int8), scale=SoftmaxScale.encode(1.0))
    assert results.sum() == pytest.approx(2**16, abs=9)
    assert int(results.max()) - int(results.min()) <= 1


def test_masked_elements_are_zero_and_do_not_count() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-100, 100, (5, 9)).astype(np.int16)
    masked = scores.copy()
    lengths = [0, 1, 4, 8, 9]
    for row, length in enumerate(lengths):
        masked[row, length:] = 2**15 - 1
    scale = SoftmaxScale.encode(0.05)
    results = softmax(masked, scale=scale, lengths=lengths)
    assert not results[0].any()
    for row, length in enumerate(lengths[1:], start=1):
        alone = softmax(scores[row : row + 1, :length], scale=scale)
        np.testing.assert_array_equal(results[row, :length], alone[0])
        assert not results[row, length:].any()


def test_causal_lengths_grow_by_one_up_to_the_row() -> None:
    assert causal_lengths(5, 4, 1).tolist() == [2, 3, 4, 4, 4]


def test_valid_lengths_are_the_shorter_of_mask_and_list() -> None:
    lengths = [0, 9, 3, 2**32 - 1]
    assert valid_lengths(4, 5).tolist() == [5] * 4
    assert valid_lengths(4, 5, row_offset=1).tolist() == [2, 3, 4, 5]
    assert valid_lengths(4, 5, lengths=np.array(lengths, np.uint32)).tolist() == [0, 5, 3, 5]
    assert valid_lengths(4, 5, row_offset=1, lengths=lengths).tolist() == [0, 3, 3, 5]


def test_a_large_matrix_equals_its_rows() -> None:
    scores = np.random.default_rng(0).integers(-50, 50, (300, 1001)).astype(np.int8)
    scale = SoftmaxScale.encode(0.1)
    results = softmax(scores, scale=scale)
    np.testing.assert_array_equal(results[299], softmax(scores[299:], scale=scale)[0])


@pytest.mark.parametrize("scale", [2.0**-40, 1e-6, 0.125, 1 / 3, 1.0, 22.0, 44.0])
def test_scale_is_encoded_to_17_bits(scale: float) -> None:
    assert SoftmaxScale.encode(scale).value == pytest.approx(scale, rel=2**-17)


def test_scale_rounds_up_to_the_next_power() -> None:
    just_below_one = (1 - 2**-20) / math.log2(math.e)
    assert SoftmaxScale.encode(just_below_one) == SoftmaxScale(2**16, 5)


@pytest.mark.parametrize("scale", [64.0, 1e30, 1.7e308])
def test_large_scales_leave_the_largest_element(scale: float) -> None:
    results = softmax(np.array([[3, 2, 3, -5]], np.int8), scale=SoftmaxScale.encode(scale))
    assert results.tolist() == [[2**15, 0, 2**15, 0]]


@pytest.mark.parametrize("scale", [1e-17, 5e-324])
def test_small_scales_make_rows_uniform(scale: float) -> None:
    extremes = np.array([[numerics.INT32_MIN, numerics.INT32_MAX]], np.int32)
    results = softmax(extremes, scale=SoftmaxScale.encode(scale))
    assert results.tolist() == [[2**15, 2**15]]


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_scale_must_be_positive(scale: float) -> None:
    with pytest.raises(ValueError, match=f"^scale must be a finite number above 0, not {scale!r}$"):
        SoftmaxScale.encode(scale)


@pytest.mark.parametrize("multiplier", [0, 2**16 - 1, 2**17])
def test_multiplier_must_be_normalized(multiplier: int) -> None:
    match = f"^multiplier must be from 65536 to 131071, not {multiplier}$"
    with pytest.raises(ValueError, match=match):
        SoftmaxScale(multiplier, 0)


@pytest.mark.parametrize("shift", [-1, 56])
def test_shift_must_be_in_range(shift: int) -> None:
    with pytest.raises(ValueError, match=f"^shift must be from 0 to 55, not {shift}$"):
        SoftmaxScale(2**16, shift)


SCALE = SoftmaxScale(2**16, 8)


def test_scores_must_be_integers() -> None:
    with pytest.raises(ShapeError, match=r"^scores must be int8, int16 or int32, not float32$"):
        softmax(np.zeros((1, 1), np.float32), scale=SCALE)


@pytest.mark.parametrize("shape", [(3,), (0, 2), (2, 0), (1, 1, 1)])
def test_scores_must_be_a_matrix(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^scores must be a non-empty matrix \(rows, cols\), not"):
        softmax(np.zeros(shape, np.int8), scale=SCALE)


def test_result_format_must_be_a_fraction() -> None:
    match = r"^result format must be Q0_16 or Q0_8, not <Format.INT8: 2>$"
    with pytest.raises(ShapeError, match=match):
        softmax(np.zeros((1, 1), np.int8), scale=SCALE, out=Format.INT8)


@pytest.mark.parametrize("lengths", [[1], [1, 4], [-1, 2]])
def test_lengths_must_fit_the_rows(lengths: list[int]) -> None:
    with pytest.raises(ShapeError, match=r"^lengths must be 2 numbers from 0 to 3, not \["):
        softmax(np.zeros((2, 3), np.int8), scale=SCALE, lengths=lengths)


@pytest.mark.parametrize("units", [1, 2, 3, 4, 5, 15, 16, 17, 40])
def test_equal_elements_close_to_a_unit_keep_the_sum_of_8_bit_results(units: int) -> None:
    """All of a row are rounded to the same side: what each is moved by adds up."""
    for count in range(256 // (units + 1) + 1, 256 // units + 2):
        for rest in range(3):
            scores = np.zeros((1, count + rest), np.int8)
            scores[:, count:] = -100
            results = softmax(scores, scale=SoftmaxScale.encode(0.03), out=Format.Q0_8)
            assert results.sum() == 256, (count, rest)
