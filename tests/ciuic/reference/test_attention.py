"""Attention's golden model against float64, and how keys and values are packed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.abi import CONFIGS
from ciuic.abi.numerics import ATTENTION_FRACTION, SoftmaxScale
from ciuic.reference import attention, pack_keys, pack_values, unpack_keys, unpack_values
from ciuic.reference.attention import TYPICAL_ERROR

CONFIG = CONFIGS["sim"]
FULL_SCALE = 128
Integers = npt.NDArray[np.int8]


def operands(seed: int, m: int, n: int, k: int, d_v: int) -> tuple[Integers, Integers, Integers]:
    rng = np.random.default_rng(seed)
    return tuple(  # type: ignore[return-value]
        rng.integers(-128, 128, shape, dtype=np.int8) for shape in ((m, k), (n, k), (n, d_v))
    )


def results(
    queries: Integers, keys: Integers, values: Integers, scale: float, lengths: npt.ArrayLike
) -> npt.NDArray[np.int16]:
    found = SoftmaxScale.encode(scale)
    m = len(queries)
    return attention(
        queries,
        keys,
        values,
        multipliers=[found.multiplier] * m,
        shifts=[found.shift] * m,
        lengths=lengths,
        block=CONFIG.cols,
    )


def exact(
    queries: Integers, keys: Integers, values: Integers, scale: float, length: int
) -> npt.NDArray[np.float64]:
    scores = scale * (queries.astype(np.float64) @ keys[:length].astype(np.float64).T)
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    weights: npt.NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return weights @ values[:length].astype(np.float64)


@pytest.mark.parametrize("n", [1, 2, 15, 16, 17, 64, 197, 1024])
@pytest.mark.parametrize("deviation", [1e-6, 0.3, 1.0, 3.0, 9.0])
def test_results_are_close_to_those_in_real_numbers(n: int, deviation: float) -> None:
    queries, keys, values = operands(n, 16, n, 64, 8)
    scale = deviation / (74**2 * 8)
    found = results(queries, keys, values, scale, [n] * 16) * 2.0**-ATTENTION_FRACTION
    error = np.abs(found - exact(queries, keys, values, scale, n)) / FULL_SCALE
    assert error.max() <= TYPICAL_ERROR
    assert error.mean() <= 2.0**-7


def test_values_of_opposite_ends_are_close_too() -> None:
    """As far as the weights can be off, the results show it."""
    rng = np.random.default_rng(3)
    for _ in range(40):
        queries, keys, values = operands(int(rng.integers(1000)), 16, 48, 16, 4)
        values = np.where(rng.random(values.shape) < 0.5, -128, 127).astype(np.int8)
        scale = float(rng.uniform(0.1, 4)) / (74**2 * 4)
        found = results(queries, keys, values, scale, [48] * 16) * 2.0**-ATTENTION_FRACTION
        assert np.abs(found - exact(queries, keys, values, scale, 48)).max() <= 128 * TYPICAL_ERROR


def test_a_query_sees_the_first_keys_only() -> None:
    queries, keys, values = operands(1, 6, 40, 32, 20)
    lengths = [0, 1, 16, 17, 40, 2**32 - 1]
    found = results(queries, keys, values, 1e-4, lengths)
    assert not found[0].any()
    for row, length in enumerate(lengths[1:], 1):
        seen = min(length, 40)
        alone = results(queries[row : row + 1], keys[:seen], values[:seen], 1e-4, [seen])
        np.testing.assert_array_equal(found[row], alone[0])
    np.testing.assert_array_equal(found[1], values[0].astype(np.int16) << ATTENTION_FRACTION)


def test_scores_far_apart_leave_one_key() -> None:
    queries = np.full((1, 64), 127, np.int8)
    keys = np.full((40, 64), -127, np.int8)
    keys[29] = 127
    values = np.arange(40, dtype=np.int8)[:, None]
    assert results(queries, keys, values, 1.0, [40])[0, 0] == 29 << ATTENTION_FRACTION


@pytest.mark.parametrize("name", ["tiny", "pynq-z2", "kv260"])
@pytest.mark.parametrize("shape", [(1, 1), (33, 65), (64, 64)])
def test_packing_can_be_undone(name: str, shape: tuple[int, int]) -> None:
    rows = np.random.default_rng(0).integers(-128, 128, shape, dtype=np.int8)
    config = CONFIGS[name]
    for pack, unpack in ((pack_keys, unpack_keys), (pack_values, unpack_values)):
        packed = pack(rows, config)
        assert packed.shape[0] == config.ports
        np.testing.assert_array_equal(unpack(packed, *shape, config), rows)


@pytest.mark.parametrize("pack", [pack_keys, pack_values])
def test_another_row_moves_nothing(pack: object) -> None:
    assert callable(pack)
    rows = np.random.default_rng(0).integers(1, 128, (40, 24), dtype=np.int8)
    for count in (15, 16, 31, 39):
        before, after = pack(rows[:count], CONFIG), pack(rows[: count + 1], CONFIG)
        same = before == after[:, : before.shape[1]]
        assert (before[~same] == 0).all()  # only places that were empty
        assert np.count_nonzero(after) - np.count_nonzero(before) == 24
