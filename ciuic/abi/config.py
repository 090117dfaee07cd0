"""What an overlay is built with: one frozen value that gateware, golden model and driver share."""

from __future__ import annotations

from dataclasses import dataclass


def _power_of_two(value: int) -> bool:
    return value > 0 and value & (value - 1) == 0


@dataclass(frozen=True, kw_only=True)
class OverlayConfig:
    """Parameters of one overlay.

    Parameters
    ----------
    name
        Name of the configuration, as users write it.
    rows, cols
        Shape of the array of PEs: ``rows`` runs along K, ``cols`` along N. Powers of two, 4 to 64.
    bus_bytes
        Width of the AXI4 master in bytes: 8 or 16.
    address_bits
        Width of an address on the AXI4 master: 32 to 64.
    outstanding
        AXI read bursts that may be in flight.
    activation_words
        Depth of the activation scratchpad in words of ``rows`` bytes, both banks together.
    accumulator_rows
        Rows of M that one accumulator bank holds (there are two banks).
    lanes
        Elements that the softmax engine takes in a cycle: 2, 4, 8 or 16.
    max_row
        Longest softmax row in elements.
    clock_hz
        Clock of the board that the configuration is meant for, in Hz.

    Raises
    ------
    ValueError
        If the parameters cannot work together.
    """

    name: str
    rows: int
    cols: int
    bus_bytes: int = 8
    address_bits: int = 32
    outstanding: int = 16
    activation_words: int = 4096
    accumulator_rows: int = 64
    lanes: int = 4
    max_row: int = 4096
    clock_hz: float = 100e6

    def __post_init__(self) -> None:
        for field in ("rows", "cols"):
            value = getattr(self, field)
            if not (_power_of_two(value) and 4 <= value <= 64):
                raise ValueError(f"{field} must be a power of two from 4 to 64, not {value!r}")
        if self.bus_bytes not in (8, 16):
            raise ValueError(f"bus_bytes must be 8 or 16, not {self.bus_bytes!r}")
        if not 32 <= self.address_bits <= 64:
            raise ValueError(f"address_bits must be from 32 to 64, not {self.address_bits!r}")
        if self.lanes not in (2, 4, 8, 16):
            raise ValueError(f"lanes must be 2, 4, 8 or 16, not {self.lanes!r}")
        if not (_power_of_two(self.outstanding) and self.outstanding <= 64):
            raise ValueError(
                f"outstanding must be a power of two up to 64, not {self.outstanding!r}"
            )
        for field in ("activation_words", "accumulator_rows", "max_row"):
            value = getattr(self, field)
            if not (_power_of_two(value) and value >= 16):
                raise ValueError(f"{field} must be a power of two of at least 16, not {value!r}")
        if self.tile_bytes % self.bus_bytes:
            raise ValueError(
                f"a weight tile of {self.rows} x {self.cols} bytes must be whole beats of "
                f"{self.bus_bytes} bytes"
            )

    @property
    def tile_bytes(self) -> int:
        """Bytes of one packed weight tile (rows x cols, INT8)."""
        return self.rows * self.cols

    @property
    def tile_beats(self) -> int:
        """Beats of one packed weight tile."""
        return self.tile_bytes // self.bus_bytes

    @property
    def bank_words(self) -> int:
        """Words of ``rows`` bytes in one bank of the activation scratchpad."""
        return self.activation_words // 2

    @property
    def alignment(self) -> int:
        """Alignment in bytes that every address and stride in a descriptor must have."""
        return self.bus_bytes

    @property
    def macs_per_cycle(self) -> int:
        """Multiply-accumulates of the full array in a cycle."""
        return self.rows * self.cols


CONFIGS: dict[str, OverlayConfig] = {
    config.name: config
    for config in (
        OverlayConfig(name="tiny", rows=8, cols=8, lanes=4, max_row=4096),
        OverlayConfig(name="sim", rows=16, cols=16, lanes=8, activation_words=16384),
        # 16 x 8 multipliers leave room in the xc7z020's 220 DSP48E1 for the softmax lanes.
        OverlayConfig(name="pynq-z2", rows=16, cols=8, lanes=4, activation_words=8192),
        OverlayConfig(
            name="kv260",
            rows=32,
            cols=32,
            bus_bytes=16,
            address_bits=40,
            lanes=8,
            activation_words=8192,
            clock_hz=200e6,
        ),
    )
}
