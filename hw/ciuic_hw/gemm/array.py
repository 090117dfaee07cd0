"""The array of PEs: a weight-stationary dot product for every column, every cycle."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

__all__ = ["Array", "array_latency", "sum_bits"]


def array_latency(config: OverlayConfig) -> int:
    """Return the cycles from activations to sums: one for the products, log2(rows) for the tree."""
    return 1 + exact_log2(config.rows)


def sum_bits(config: OverlayConfig) -> int:
    """Return the width of a signed sum of ``rows`` products."""
    return 16 + exact_log2(config.rows)


class Array(Component):
    """Weight-stationary ``rows`` x ``cols`` array of INT8 PEs.

    A row of activations is broadcast to all columns; a column multiplies it with its ``rows``
    weights and sums the products in a registered adder tree. Compared with a systolic chain this
    needs no skew of the inputs and no alignment of the results, and all weights change in one
    cycle, so that a tile of a single row of activations costs a single cycle.

    Weights arrive in beats into a second set of registers, in the order of `pack_weights`, while
    the first set computes; ``swap`` makes them current. A beat that arrives together with ``swap``
    belongs to the next tile.

    Parameters
    ----------
    config
        The overlay's configuration.

    Members
    -------
    load, beat : In(1), In(bus_bytes * 8)
        A beat of weights; beats of a tile are counted here.
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
                "beat": In(config.bus_bytes * 8),
                "loaded": Out(1),
                "swap": In(1),
                "valid": In(1),
                "activations": In(config.rows * 8),
                "sums": Out(config.cols * sum_bits(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        rows, cols, beats = config.rows, config.cols, config.tile_beats

        # Two sets of weights, in beats.
        count = Signal(range(beats))
        current = []
        for index in range(beats):
            shadow = Signal(config.bus_bytes * 8, name=f"shadow_{index}")
            weights = Signal(config.bus_bytes * 8, name=f"weights_{index}")
            with m.If(self.load & (count == index)):
                m.d.sync += shadow.eq(self.beat)
            with m.If(self.swap):
                m.d.sync += weights.eq(shadow)
            current.append(weights)
        with m.If(self.swap):
            m.d.sync += self.loaded.eq(0)
        with m.If(self.load):
            m.d.sync += count.eq(count + 1)
            with m.If(count == beats - 1):
                m.d.sync += [count.eq(0), self.loaded.eq(1)]

        # Products and adder trees. A stage moves only when it holds something.
        flat = Cat(*current)
        valid = self.valid
        stage = [
            [
                self.activations.word_select(row, 8).as_signed()
                * flat.word_select(row * cols + col, 8).as_signed()
                for row in range(rows)
            ]
            for col in range(cols)
        ]
        level = 0
        while True:
            registered = []
            with m.If(valid):
                for col, terms in enumerate(stage):
                    held = [
                        Signal(signed(16 + level), name=f"sum_{level}_{col}_{i}")
                        for i in range(len(terms))
                    ]
                    m.d.sync += [reg.eq(term) for reg, term in zip(held, terms, strict=True)]
                    registered.append(held)
            if len(registered[0]) == 1:
                break
            moved = Signal(name=f"valid_{level}")
            m.d.sync += moved.eq(valid)
            valid = moved
            stage = [[a + b for a, b in zip(h[::2], h[1::2], strict=True)] for h in registered]
            level += 1

        m.d.comb += self.sums.eq(Cat(*(held[0] for held in registered)))
        return m
