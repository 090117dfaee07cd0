"""Scales of INT4 weights: each column's sum times the scale of its group."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import ACCUMULATOR_BITS, W4_SCALE_BITS

from ..streams import delay
from .array import PRODUCT_LATENCY, sum_bits

__all__ = ["SCALE_LATENCY", "SWAP_DELAY", "Scales", "accumulator_bits"]

SCALE_LATENCY = PRODUCT_LATENCY + 1
SWAP_DELAY = 2  # a slot changes this many cycles behind the swap: one behind the weights
FACTOR_BITS = 18  # of a multiplier; a sum of INT4 products fits


def accumulator_bits(config: OverlayConfig) -> int:
    """Return the width of an accumulator."""
    return ACCUMULATOR_BITS if config.w4 else 32


class Scales(Component):
    """Multiply sums with the scales of their group, or pass them on.

    Scales are loaded ahead like weights. A swap puts them into one of two slots, in turn; the slot
    travels with the rows of the tile, so that they meet the right scales behind the array while
    those of the next tile are in place already.

    Members
    -------
    load, beat : In(1), In(stream_bytes * 8)
        A beat of scales.
    swap : In(2)
        Strobes: a tile becomes current; its scales go to this slot.
    sums_slot : In(1)
        Which scales the next sums need.
    sums, w4 : In
        From the array; whether they need scales.
    terms : Out(cols * accumulator_bits)
        `SCALE_LATENCY` cycles later.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "beat": In(config.stream_bytes * 8),
                "swap": In(2),
                "sums": In(config.cols * sum_bits(config)),
                "sums_slot": In(1),
                "w4": In(1),
                "terms": Out(config.cols * accumulator_bits(config)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        width, bits = sum_bits(config), accumulator_bits(config)
        sums = [self.sums.word_select(col, width).as_signed() for col in range(config.cols)]
        plain = [delay(m, value, PRODUCT_LATENCY, reset_less=True) for value in sums]
        terms = Signal(len(self.terms), reset_less=True)
        m.d.comb += self.terms.eq(terms)
        if not config.w4:
            for col, value in enumerate(plain):
                m.d.sync += terms.word_select(col, bits).eq(value)
            return m

        beats = config.scale_bytes // config.stream_bytes
        count = Signal(range(beats))
        loaded = Signal(config.scale_bytes * 8, reset_less=True)
        slots = [
            Signal(config.cols * W4_SCALE_BITS, name=f"slot_{i}", reset_less=True) for i in range(2)
        ]
        with m.If(self.load):
            m.d.sync += count.eq(Mux(count == beats - 1, 0, count + 1))
            with m.Switch(count):
                for place in range(beats):
                    with m.Case(place):
                        m.d.sync += loaded.word_select(place, len(self.beat)).eq(self.beat)
        for slot, swap in zip(slots, self.swap, strict=True):
            with m.If(swap):
                m.d.sync += slot.eq(loaded)
        scales = Mux(self.sums_slot, slots[1], slots[0])
        w4 = delay(m, self.w4, PRODUCT_LATENCY, reset_less=True)
        for col, value in enumerate(sums):
            factor = delay(m, value[:FACTOR_BITS].as_signed(), 1, reset_less=True)
            scale = scales.word_select(col, W4_SCALE_BITS).as_signed()
            scale = delay(m, scale, 2, reset_less=True)  # the second one is the multiplier's
            product = delay(m, factor * scale, PRODUCT_LATENCY - 1, reset_less=True)
            m.d.sync += terms.word_select(col, bits).eq(Mux(w4, product, plain[col]))
        return m
