"""Packed weights: round trips, and the order in which ports read them."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.abi.numerics import W4_GROUP, W4_MAX_K
from ciuic.errors import ShapeError
from ciuic.reference import (
    pack_weights,
    pack_weights_w4,
    packed_nbytes,
    unpack_weights,
    unpack_weights_w4,
)

NARROW = OverlayConfig(name="narrow", rows=4, cols=4)  # takes no INT4
ALL = [*CONFIGS.values(), NARROW]
WITH_W4 = [config for config in ALL if config.w4]
SHAPES = [(1, 1), (3, 17), (32, 16), (33, 40), (577, 17), (100, 130)]
each_config = pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
each_w4 = pytest.mark.parametrize("config", WITH_W4, ids=lambda config: config.name)
each_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


@pytest.fixture
def rng() -> np.random.Generator:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    return np.random.default_rng(seed)


@each_config
@each_shape
def test_int8_weights_survive_a_round_trip(
    rng: np.random.Generator, config: OverlayConfig, shape: tuple[int, int]
) -> None:
    weights = rng.integers(-128, 128, shape, dtype=np.int8)
    stripes = pack_weights(weights, config)
    assert stripes.shape[0] == config.ports
    assert stripes.shape[1] % config.alignment == 0
    assert stripes.nbytes == packed_nbytes(*shape, config)
    np.testing.assert_array_equal(unpack_weights(stripes, *shape, config), weights)


@each_w4
@each_shape
def test_int4_weights_survive_a_round_trip(
    rng: np.random.Generator, config: OverlayConfig, shape: tuple[int, int]
) -> None:
    weights = rng.integers(-8, 8, shape, dtype=np.int8)
    groups = -(-shape[0] // W4_GROUP)
    scales = rng.integers(-(2**15), 2**15, (groups, shape[1])).astype(np.int16)
    stripes = pack_weights_w4(weights, scales, config)
    assert stripes.shape[0] == config.ports
    assert stripes.shape[1] % config.alignment == 0
    assert stripes.nbytes == packed_nbytes(*shape, config, w4=True)
    found = unpack_weights_w4(stripes, *shape, config)
    np.testing.assert_array_equal(found[0], weights)
    np.testing.assert_array_equal(found[1], scales)


def test_int4_weights_take_nine_sixteenths_of_the_bytes() -> None:
    config = CONFIGS["sim"]
    w8, w4 = (packed_nbytes(576, 1536, config, w4=w4) for w4 in (False, True))
    assert w4 * 16 == w8 * 9


def test_ports_take_turns_at_the_beats_of_tiles() -> None:
    config = OverlayConfig(name="two", rows=4, cols=8, ports=2)
    weights = np.arange(8 * 16, dtype=np.int64).astype(np.int8).reshape(8, 16)
    stripes = pack_weights(weights, config).view(np.int8)
    # A tile's row is a beat of 8 bytes: even rows in the first stripe, odd ones in the second.
    np.testing.assert_array_equal(stripes[0][:8], weights[0, :8])
    np.testing.assert_array_equal(stripes[1][:8], weights[1, :8])
    np.testing.assert_array_equal(stripes[0][8:16], weights[2, :8])
    np.testing.assert_array_equal(stripes[0][16:24], weights[4, :8])  # the next tile along K
    np.testing.assert_array_equal(stripes[0][32:40], weights[0, 8:])  # the next block of columns


def test_scales_stand_before_their_group() -> None:
    config = OverlayConfig(name="eight", rows=8, cols=8)
    scales = np.arange(1, 17, dtype=np.int16).reshape(2, 8)
    weights = np.full((W4_GROUP + 1, 8), -3, np.int8)
    weights[0, :2] = 1, 2
    stream = pack_weights_w4(weights, scales, config)[0]
    group = 16 + 4 * 32  # scales, four tiles of 8 x 8 INT4
    assert stream[:16].view(np.int16).tolist() == scales[0].tolist()
    assert stream[16] == 0x21  # the first of two weights is in the low half
    assert stream[group : group + 16].view(np.int16).tolist() == scales[1].tolist()
    assert stream.size == group + 16 + 32


@pytest.mark.parametrize(
    ("weights", "scales", "message"),
    [
        (np.full((32, 2), 8, np.int8), (1, 2), "INT4 weights must be from -8 to 7"),
        (np.zeros((33, 2), np.int8), (1, 2), "scales must be int16 (2, 2), not int16 (1, 2)"),
        (np.zeros((0, 2), np.int8), (0, 2), "weights must be a non-empty INT8 matrix (k, n), not"),
        (
            np.zeros((W4_MAX_K + 1, 1), np.int8),
            (513, 1),
            f"overlay 'tiny' must take INT4 weights of up to {W4_MAX_K} rows (it does), not",
        ),
    ],
)
def test_weights_that_cannot_be_packed_are_refused(
    weights: np.ndarray[tuple[int, int], np.dtype[np.int8]], scales: tuple[int, int], message: str
) -> None:
    with pytest.raises(ShapeError, match=f"^{re.escape(message)}"):
        pack_weights_w4(weights, np.zeros(scales, np.int16), CONFIGS["tiny"])


def test_an_overlay_without_int4_refuses_them() -> None:
    with pytest.raises(ShapeError, match=r"^overlay 'narrow' must take INT4 .*\(it does not\)"):
        pack_weights_w4(np.zeros((1, 1), np.int8), np.zeros((1, 1), np.int16), NARROW)
