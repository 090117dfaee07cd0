"""Scales of INT4 weights: each column's sum times the scale of its group."""

from amaranth.hdl import *
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import ACCUMULATOR_BITS, W4_SCALE_BITS

from .array import sum_bits

__all__ = ["Scales", "accumulator_bits"]


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
    swap, slot : In(1), In(1)
        A tile becomes current; its scales go to this slot.
    valid : In(1)
        There are sums.
    sums, sums_slot, w4 : In
        From the array; which scales, if any.
    terms : Out(cols * accumulator_bits)
        One cycle later.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "beat": In(config.stream_bytes * 8),
                "swap": In(1),
                "slot": In(1),
                "valid": In(1),
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
        if not config.w4:
            with m.If(self.valid):
                for col, value in enumerate(sums):
                    m.d.sync += self.terms.word_select(col, bits).eq(value)
            return m

        beats = config.scale_bytes // config.stream_bytes
        count = Signal(range(beats))
        loaded = Signal(config.scale_bytes * 8)
        slots = [Signal(config.cols * W4_SCALE_BITS, name=f"slot_{i}") for i in range(2)]
        with m.If(self.load):
            m.d.sync += count.eq(Mux(count == beats - 1, 0, count + 1))
            with m.Switch(count):
                for place in range(beats):
                    with m.Case(place):
                        m.d.sync += loaded.word_select(place, len(self.beat)).eq(self.beat)
        with m.If(self.swap):
            with m.If(self.slot):
                m.d.sync += slots[1].eq(loaded)
            with m.Else():
                m.d.sync += slots[0].eq(loaded)
        scales = Mux(self.sums_slot, slots[1], slots[0])
        with m.If(self.valid):
            for col, value in enumerate(sums):
                term = self.terms.word_select(col, bits)
                scale = scales.word_select(col, W4_SCALE_BITS).as_signed()
                with m.If(self.w4):
                    m.d.sync += term.eq(value * scale)
                with m.Else():
                    m.d.sync += term.eq(value)
        return m
