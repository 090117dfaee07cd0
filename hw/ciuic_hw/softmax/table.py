"""A function by a table and linear interpolation."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ciuic.abi import numerics

__all__ = ["Interpolator"]


class Interpolator(wiring.Component):
    """Interpolate a falling function, a value a cycle.

    Parameters
    ----------
    table
        From `ciuic.abi.numerics`: (value, decrease to the next) for each entry.
    value_bits
        Width of a value.

    Members
    -------
    position : In(TABLE_BITS + STEP_BITS)
    value : Out(value_bits)

    Latency
    -------
    ``Interpolator.latency`` cycles.
    """

    latency = 3

    def __init__(self, table, *, value_bits):
        self.table = table
        self.entry = data.StructLayout({"value": value_bits, "slope": numerics.SLOPE_BITS})
        super().__init__(
            {
                "position": In(numerics.TABLE_BITS + numerics.STEP_BITS),
                "value": Out(value_bits),
            }
        )

    def elaborate(self, platform):
        m = Module()
        init = [{"value": value, "slope": slope} for value, slope in self.table]
        m.submodules.table = memory = Memory(shape=self.entry, depth=len(self.table), init=init)
        read = memory.read_port()
        step = Signal(numerics.STEP_BITS)
        start = Signal.like(self.value)
        decrease = Signal(numerics.SLOPE_BITS + numerics.STEP_BITS)
        half = 1 << (numerics.STEP_BITS - 1)
        m.d.comb += read.addr.eq(self.position >> numerics.STEP_BITS)
        m.d.sync += [
            step.eq(self.position),
            start.eq(read.data.value),
            decrease.eq(read.data.slope * step + half),
            self.value.eq(start - (decrease >> numerics.STEP_BITS)),
        ]
        return m
