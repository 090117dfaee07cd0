"""What an overlay is built with: one frozen value that gateware, golden model and driver share."""

from __future__ import annotations

from dataclasses import dataclass

from .numerics import W4_GROUP, W4_SCALE_BITS


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
    ports
        AXI4 masters over which weights are striped: 1, 2 or 4. The first also carries the rest.
    products_per_dsp
        1, or 2: neighbouring columns share a multiplier of at least 25 x 8 bits, signed.
    outstanding
        AXI bursts that may be in flight on each master.
    activation_words
        Depth of the activation scratchpad in words of ``rows`` bytes, both banks together.
    accumulator_rows
        Rows of M that one accumulator bank holds (there are two banks).
    lut_accumulators
        Whether the accumulator banks are LUT RAM: they are wide and shallow, and take block RAM
        for its width alone.
    lanes
        Elements that the softmax engine takes in a cycle: 2, 4, 8 or 16.
    max_row
        Longest softmax row in elements.
    softmax_tables
        Where the tables of exp and of the reciprocal are, of softmax and of attention: "bram", a
        block RAM each, or "lut", logic.
    attention
        Whether there is an attention engine; it needs a square array, as wide as the bus or
        wider, that takes INT4 weights, and as many columns as lanes or more.
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
    ports: int = 1
    products_per_dsp: int = 1
    outstanding: int = 16
    activation_words: int = 4096
    accumulator_rows: int = 64
    lut_accumulators: bool = False
    lanes: int = 4
    max_row: int = 4096
    softmax_tables: str = "bram"
    attention: bool = False
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
        if self.softmax_tables not in ("bram", "lut"):
            raise ValueError(f"softmax_tables must be 'bram' or 'lut', not {self.softmax_tables!r}")
        if self.ports not in (1, 2, 4):
            raise ValueError(f"ports must be 1, 2 or 4, not {self.ports!r}")
        if self.products_per_dsp not in (1, 2):
            raise ValueError(f"products_per_dsp must be 1 or 2, not {self.products_per_dsp!r}")
        if not (_power_of_two(self.outstanding) and self.outstanding <= 64):
            raise ValueError(
                f"outstanding must be a power of two up to 64, not {self.outstanding!r}"
            )
        for field in ("activation_words", "accumulator_rows", "max_row"):
            value = getattr(self, field)
            if not (_power_of_two(value) and value >= 16):
                raise ValueError(f"{field} must be a power of two of at least 16, not {value!r}")
        if self.tile_bytes < self.stream_bytes:
            raise ValueError(
                f"a weight tile of {self.rows} x {self.cols} bytes must be at least the "
                f"{self.stream_bytes} bytes that {self.ports} ports carry in a cycle"
            )

        if self.attention and not (
            self.rows == self.cols >= max(self.bus_bytes, self.lanes) and self.w4
        ):
            raise ValueError(
                "attention must have a square array that takes INT4 weights, with at least as many "
                f"columns as lanes and bytes of the bus, not {self.rows} x {self.cols}"
            )

    @property
    def attention_rows(self) -> int:
        """Rows of ``cols`` sums that attention holds for one descriptor.

        Its m times the blocks of columns of V must fit.
        """
        return self.accumulator_rows * max(1, 64 // self.cols)

    @property
    def tile_bytes(self) -> int:
        """Bytes of one packed weight tile (rows x cols, INT8)."""
        return self.rows * self.cols

    @property
    def stream_bytes(self) -> int:
        """Bytes of weights that all ports together carry in a cycle."""
        return self.ports * self.bus_bytes

    @property
    def tile_beats(self) -> int:
        """Cycles in which the ports carry one INT8 weight tile."""
        return self.tile_bytes // self.stream_bytes

    @property
    def w4(self) -> bool:
        """Whether the array takes INT4 weights.

        A group must be whole tiles, and scales must stay in their slot until the last row that
        needs them has left the array: the tile after the next takes the slot at the earliest one
        tile of beats after that row was issued, so a tile must take as many cycles as sums are
        added behind the multipliers, and one.
        """
        stages = self.rows.bit_length()  # log2(rows) levels of sums, and one
        return self.rows <= W4_GROUP and self.tile_bytes >= 2 * stages * self.stream_bytes

    @property
    def scale_bytes(self) -> int:
        """Bytes that the scales of one group of INT4 weights take in the stream."""
        return max(self.cols * W4_SCALE_BITS // 8, self.stream_bytes)

    @property
    def int8_results(self) -> bool:
        """Whether results can be requantized: a block of columns must be whole beats of INT8."""
        return self.cols >= self.bus_bytes

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
        OverlayConfig(name="tiny", rows=8, cols=8, lanes=4, attention=True),
        OverlayConfig(
            name="sim", rows=16, cols=16, lanes=8, activation_words=16384, attention=True
        ),
        # 128 of the xc7z020's 220 DSP48E1 for the array; two of its four 64-bit HP ports carry
        # 1.6 GB/s at 100 MHz, the DDR3 2.1 GB/s.
        OverlayConfig(
            name="pynq-z2",
            rows=16,
            cols=16,
            ports=2,
            products_per_dsp=2,
            lanes=4,
            activation_words=8192,
            attention=True,
        ),
        # 512 of the XCK26's 1,248 DSP48E2 for the array; four 128-bit HP ports.
        OverlayConfig(
            name="kv260",
            rows=32,
            cols=32,
            bus_bytes=16,
            ports=4,
            products_per_dsp=2,
            address_bits=40,
            lut_accumulators=True,
            lanes=8,
            activation_words=8192,
            attention=True,
            clock_hz=200e6,
        ),
    )
}
