"""The reciprocal of a row's sum."""

from amaranth.hdl import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ciuic.abi import numerics

from ..arithmetic import highest
from ..streams import delay
from .layouts import RECIPROCAL, sum_bits
from .table import Interpolator

__all__ = ["Reciprocal"]

FRACTION_BITS = numerics.TABLE_BITS + numerics.STEP_BITS


class Reciprocal(wiring.Component):
    """One reciprocal a cycle.

    Members
    -------
    total : In(sum_bits(max_row))
        At least one, SUM_FRACTION fraction bits.
    o : Out(RECIPROCAL)

    Latency
    -------
    ``Reciprocal.latency`` cycles.
    """

    latency = 2 + Interpolator.latency

    def __init__(self, config):
        self.config = config
        super().__init__({"total": In(sum_bits(config.max_row)), "o": Out(RECIPROCAL)})

    def elaborate(self, platform):
        m = Module()
        norm = Signal.like(self.o.norm)
        m.d.comb += norm.eq(highest(self.total[numerics.SUM_FRACTION :])[1])
        norm_1 = delay(m, norm, 1, reset_less=True)
        total_1 = delay(m, self.total[numerics.SUM_FRACTION - FRACTION_BITS :], 1, reset_less=True)
        fraction = delay(m, (total_1 >> norm_1)[:FRACTION_BITS], 1, reset_less=True)

        table = Interpolator(
            self.config, numerics.reciprocal_table(), value_bits=numerics.RECIPROCAL_FRACTION
        )
        m.submodules.reciprocal = table
        m.d.comb += [
            table.position.eq(fraction),
            self.o.inverse.eq(table.value),
            self.o.norm.eq(delay(m, norm_1, 1 + table.latency, reset_less=True)),
        ]
        return m
