"""The array of PEs: a weight-stationary dot product for every column, every cycle."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

__all__ = ["PeArray", "array_latency", "sum_bits"]


def array_latency(config: OverlayConfig) -> int:
    """Return the cycles from activations to sums: one for the products, log2(rows) for the tree."""
    return 1 + exact_log2(config.rows)


def sum_bits(config: OverlayConfig) -> int:
    """Return the width of a signed sum of ``rows`` products."""
    return 16 + exact_log2(config.rows)


class PeArray(Component):
    """Weight-stationary ``rows`` x ``cols`` array of INT8 PEs.

    A row of activations is broadcast to all columns; a column multiplies it with its ``rows``
    weights and sums the products in a registered adder tree. Compared with a systolic chain this
    needs no skew of the inputs and no alignment of the results, and all weights change in one
    cycle, so that a tile of a single row of activations costs a single cycle.

    Weights arrive in beats into a second set of registers, in the order of `pack_weights`, while
    the first set computes; ``swap`` makes them current. A beat that arrives together with ``swap``
    belongs to the next tile. A beat of INT4 weights fills two places.

    With ``products_per_dsp`` = 2 neighbouring columns share a multiplier: their weights are packed
    as w1 * 2**16 + w0 when they become current, and the two products are taken apart behind it.
    The low one borrows from the high one when it is negative. An INT8 product fits into 16 bits,
    so no bit is lost; the packed weight takes 24 bits, within the 25 of a DSP48E1.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    load, w4, beat : In(1), In(1), In(stream_bytes * 8)
        A beat of weights; beats of a tile are counted here.
    tile_loaded : Out(1)
        The beat that is offered completes a tile.
    loaded : Out(1)
        The second set holds a whole tile.
    swap : In(1)
        Make the loaded tile current from the next cycle on.
    valid, activations : In(1), In(rows * 8)
        A row of activations, to be multiplied with the current weights.
    sums : Out(cols * sum_bits)
        Signed sums, the first column in the lowest bits.

    Latency
    -------
    `array_latency` cycles from activations to sums.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "w4": In(1),
                "beat": In(config.stream_bytes * 8),
                "tile_loaded": Out(1),
                "loaded": Out(1),
                "swap": In(1),
                "valid": In(1),
                "activations": In(config.rows * 8),
                "sums": Out(config.cols * sum_bits(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        weights = self._weights(m)
        valid = self.valid
        level = 0
        stage = self._products(weights)  # for each column, the terms of its sum
        while True:
            held = []
            with m.If(valid):  # a stage moves only when it holds something
                for col, terms in enumerate(stage):
                    registers = [
                        Signal(signed(16 + level), name=f"sum_{level}_{col}_{i}")
                        for i in range(len(terms))
                    ]
                    m.d.sync += [reg.eq(term) for reg, term in zip(registers, terms, strict=True)]
                    held.append(registers)
            if len(held[0]) == 1:
                break
            moved = Signal(name=f"valid_{level}")
            m.d.sync += moved.eq(valid)
            valid = moved
            stage = [[a + b for a, b in zip(h[::2], h[1::2], strict=True)] for h in held]
            level += 1
        m.d.comb += self.sums.eq(Cat(*(registers[0] for registers in held)))
        return m

    def _weights(self, m):
        """Load the second set of weights; return the current one as [row][pair or column]."""
        config = self.config
        width = config.stream_bytes * 8
        places = config.tile_beats
        count = Signal(range(places))
        step = Signal(range(3))
        m.d.comb += [
            step.eq(Mux(self.w4, 2, 1)),
            self.tile_loaded.eq(count + step >= places),
        ]
        unpacked = Cat(
            Cat(nibble := self.beat.word_select(i, 4), nibble[3].replicate(4))
            for i in range(width // 4)
        )
        loaded = []
        for place in range(places):
            shadow = Signal(width, name=f"loaded_{place}")
            with m.If(self.load & ~self.w4 & (count == place)):
                m.d.sync += shadow.eq(self.beat)
            if config.w4:
                half = unpacked.word_select(place % 2, width)
                with m.If(self.load & self.w4 & (count == place // 2 * 2)):
                    m.d.sync += shadow.eq(half)
            loaded.append(shadow)
        with m.If(self.swap):
            m.d.sync += self.loaded.eq(0)
        with m.If(self.load):
            m.d.sync += count.eq(Mux(self.tile_loaded, 0, count + step))
            with m.If(self.tile_loaded):
                m.d.sync += self.loaded.eq(1)

        flat = Cat(*loaded)
        per = config.products_per_dsp
        rows = []
        for row in range(config.rows):
            current = []
            for group in range(config.cols // per):
                first = row * config.cols + group * per
                parts = [flat.word_select(first + i, 8).as_signed() for i in range(per)]
                weight = Signal(signed(8 if per == 1 else 25), name=f"weight_{row}_{group}")
                with m.If(self.swap):
                    m.d.sync += weight.eq(parts[0] if per == 1 else (parts[1] << 16) + parts[0])
                current.append(weight)
            rows.append(current)
        return rows

    def _products(self, weights):
        """Return for each column the products of all rows, signed 16 bits."""
        columns = [[] for _ in range(self.config.cols)]
        for row, current in enumerate(weights):
            activation = self.activations.word_select(row, 8).as_signed()
            for group, weight in enumerate(current):
                product = activation * weight
                if self.config.products_per_dsp == 1:
                    columns[group].append(product)
                else:
                    columns[2 * group].append(product[:16].as_signed())
                    columns[2 * group + 1].append(product[16:32].as_signed() + product[15])
        return columns
