"""Overlay configurations: what can work together and what is refused."""

from __future__ import annotations

import pytest

from ciuic.abi import CONFIGS, OverlayConfig


def test_configurations_are_found_by_their_names() -> None:
    assert {"tiny", "sim", "pynq-z2", "kv260"} <= set(CONFIGS)
    assert all(config.name == name for name, config in CONFIGS.items())


@pytest.mark.parametrize("config", CONFIGS.values(), ids=lambda config: config.name)
def test_derived_sizes(config: OverlayConfig) -> None:
    assert config.tile_beats * config.stream_bytes == config.rows * config.cols
    assert config.macs_per_cycle == config.tile_bytes
    assert config.bank_words * 2 == config.activation_words


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ({"rows": 8, "cols": 16, "ports": 2}, True),  # a tile takes as long as the array
        ({"rows": 16, "cols": 8, "ports": 2}, False),  # a cycle less: scales would be lost
        ({"rows": 32, "cols": 8, "ports": 2}, True),
        ({"rows": 64, "cols": 64}, False),  # a tile is more than a group
        ({"rows": 4, "cols": 4}, False),
    ],
)
def test_int4_weights_are_taken_if_scales_stay_long_enough(
    shape: dict[str, int], taken: bool
) -> None:
    assert OverlayConfig(name="x", **shape).w4 is taken


def test_all_named_configurations_take_int4_weights() -> None:
    assert all(config.w4 for config in CONFIGS.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": 12}, "rows must be a power of two from 4 to 64, not 12"),
        ({"cols": 128}, "cols must be a power of two from 4 to 64, not 128"),
        ({"bus_bytes": 4}, "bus_bytes must be 8 or 16, not 4"),
        ({"address_bits": 65}, "address_bits must be from 32 to 64, not 65"),
        ({"lanes": 3}, "lanes must be 2, 4, 8 or 16, not 3"),
        ({"softmax_tables": "rom"}, "softmax_tables must be 'bram' or 'lut', not 'rom'"),
        ({"outstanding": 3}, "outstanding must be a power of two up to 64, not 3"),
        ({"max_row": 8}, "max_row must be a power of two of at least 16, not 8"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        OverlayConfig(**{"name": "x", "rows": 8, "cols": 8, **change})
