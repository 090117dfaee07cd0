"""The array of PEs: a weight-stationary dot product for every column, every cycle."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out
from amaranth.utils import exact_log2

from ciuic.abi import OverlayConfig

from ..streams import delay

__all__ = ["PeArray", "array_latency", "sum_bits"]


PRODUCT_LATENCY = 3  # a multiplier's own registers: at its inputs, within, at its output


def array_latency(config: OverlayConfig) -> int:
    """Return the cycles from activations to sums: a register, products, log2(rows) for the tree."""
    return 1 + PRODUCT_LATENCY + exact_log2(config.rows)


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
    the first set computes; ``swap`` makes them current, for the row that comes with it. A beat that
    arrives together with ``swap`` belongs to the next tile; one of INT4 weights fills two places.

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
    load, w4, place, beat : In(1), In(1), In(range(tile_beats)), In(stream_bytes * 8)
        A beat of weights, and the place in its tile.
    swap : In(1)
        The loaded tile is for this row of activations and those that follow.
    valid, activations : In(1), In(rows * 8)
        A row of activations.
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
                "place": In(range(config.tile_beats)),
                "beat": In(config.stream_bytes * 8),
                "swap": In(1),
                "valid": In(1),
                "activations": In(config.rows * 8),
                "sums": Out(config.cols * sum_bits(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # All inputs are registered, as multipliers lie far apart.
        weights = self._weights(m)
        activations = Signal(self.activations.shape(), reset_less=True)
        valid = delay(m, self.valid, 1)
        coming = delay(m, self.activations, 1, reset_less=True)
        with m.If(valid):
            m.d.sync += activations.eq(coming)
        valid = self._next(m, valid, "inputs")
        products = self._products(weights, activations)
        for name in ("within", "product"):
            products = self._hold(m, valid, products, name)
            valid = self._next(m, valid, name)
        terms = self._columns(products)
        level = 0
        while len(terms[0]) > 1:
            terms = [[a + b for a, b in zip(t[::2], t[1::2], strict=True)] for t in terms]
            terms = self._hold(m, valid, terms, f"sum_{level}")
            valid = self._next(m, valid, f"sum_{level}")
            level += 1
        m.d.comb += self.sums.eq(Cat(*(one for (one,) in terms)))
        return m

    @staticmethod
    def _next(m, valid, name):
        after = Signal(name=f"{name}_valid")
        m.d.sync += after.eq(valid)
        return after

    @staticmethod
    def _hold(m, valid, terms, name):
        """Register lists of terms; a stage moves only when it holds something."""
        held = []
        with m.If(valid):
            for outer, several in enumerate(terms):
                registers = [
                    Signal(term.shape(), name=f"{name}_{outer}_{inner}", reset_less=True)
                    for inner, term in enumerate(several)
                ]
                m.d.sync += [reg.eq(term) for reg, term in zip(registers, several, strict=True)]
                held.append(registers)
        return held

    def _weights(self, m):
        """Load the second set of weights; return the current one as [row][pair or column]."""
        config = self.config
        width = config.stream_bytes * 8
        places = config.tile_beats
        swap, beat = delay(m, self.swap, 1), delay(m, self.beat, 1, reset_less=True)
        unpacked = Cat(
            Cat(nibble := beat.word_select(i, 4), nibble[3].replicate(4)) for i in range(width // 4)
        )
        loaded = []
        for place in range(places):
            shadow = Signal(width, name=f"loaded_{place}", reset_less=True)
            with m.If(delay(m, self.load & ~self.w4 & (self.place == place), 1)):
                m.d.sync += shadow.eq(beat)
            if config.w4:
                half = unpacked.word_select(place % 2, width)
                with m.If(delay(m, self.load & self.w4 & (self.place == place // 2 * 2), 1)):
                    m.d.sync += shadow.eq(half)
            loaded.append(shadow)

        flat = Cat(*loaded)
        per = config.products_per_dsp
        rows = []
        for row in range(config.rows):
            current = []
            for group in range(config.cols // per):
                first = row * config.cols + group * per
                parts = [flat.word_select(first + i, 8).as_signed() for i in range(per)]
                weight = Signal(
                    signed(8 if per == 1 else 25), name=f"weight_{row}_{group}", reset_less=True
                )
                with m.If(swap):
                    m.d.sync += weight.eq(parts[0] if per == 1 else (parts[1] << 16) + parts[0])
                current.append(weight)
            rows.append(current)
        return rows

    def _products(self, weights, activations):
        """Return the products of each row, one for each multiplier."""
        rows = []
        for row, current in enumerate(weights):
            activation = activations.word_select(row, 8).as_signed()
            bits = signed(16 * self.config.products_per_dsp)
            rows.append([(activation * weight)[: bits.width].as_signed() for weight in current])
        return rows

    def _columns(self, products):
        """Return for each column the products of all rows, signed 16 bits."""
        columns = [[] for _ in range(self.config.cols)]
        for row in products:
            for group, product in enumerate(row):
                if self.config.products_per_dsp == 1:
                    columns[group].append(product)
                else:
                    columns[2 * group].append(product[:16].as_signed())
                    columns[2 * group + 1].append(
                        (product[16:].as_signed() + product[15])[:16].as_signed()
                    )
        return columns
