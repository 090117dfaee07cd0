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
    ("change", "message"),
    [
        ({"rows": 12}, "rows must be a power of two from 4 to 64, not 12"),
        ({"cols": 128}, "cols must be a power of two from 4 to 64, not 128"),
        ({"bus_bytes": 4}, "bus_bytes must be 8 or 16, not 4"),
        ({"address_bits": 65}, "address_bits must be from 32 to 64, not 65"),
        ({"lanes": 3}, "lanes must be 2, 4, 8 or 16, not 3"),
        ({"outstanding": 3}, "outstanding must be a power of two up to 64, not 3"),
        ({"max_row": 8}, "max_row must be a power of two of at least 16, not 8"),
    ],
)
def test_impossible_parameters_are_refused(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        OverlayConfig(**{"name": "x", "rows": 8, "cols": 8, **change})


@pytest.mark.parametrize(
    ("rows", "cols", "ports", "takes"),
    [(8, 8, 1, True), (16, 8, 2, False), (16, 16, 1, True), (64, 64, 1, False), (8, 4, 1, False)],
)
def test_int4_needs_tiles_as_long_as_the_array_is_deep(
    rows: int, cols: int, ports: int, takes: bool
) -> None:
    assert OverlayConfig(name="x", rows=rows, cols=cols, ports=ports).w4 is takes
