"""A function by a table and linear interpolation."""

from amaranth.hdl import *
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from ciuic.abi import numerics

from ..streams import delay

__all__ = ["Interpolator"]

# Vivado and Yosys know `rom_style`. To Yosys "distributed" means LUT RAM, which it does not use for
# what is never written, so it is told to make logic by an attribute that it looks at before.
STYLES = {
    "bram": {"rom_style": "block"},
    "lut": {"rom_style": "distributed", "ram_block": "logic"},
}


class Interpolator(wiring.Component):
    """Interpolate a falling function, a value a cycle.

    Parameters
    ----------
    config : ciuic.abi.OverlayConfig
        ``softmax_tables`` says what the table is made of; the latency is the same.
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

    latency = 8

    def __init__(self, config, table, *, value_bits):
        self.style = STYLES[config.softmax_tables]
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
        m.submodules.table = memory = Memory(
            shape=self.entry, depth=len(self.table), init=init, attrs=self.style
        )
        read = memory.read_port()
        # Block RAM is slow to answer: its output register comes before the multiplier.
        entry = self.entry(delay(m, Value.cast(read.data), 1, reset_less=True))
        slope = delay(m, entry.slope, 1, reset_less=True)
        position = delay(m, self.position, 1, reset_less=True)  # block RAM may be far away
        step = delay(m, position[: numerics.STEP_BITS], 3, reset_less=True)
        product = delay(m, slope * step, 2, reset_less=True)
        half = 1 << (numerics.STEP_BITS - 1)
        decrease = delay(m, product + half, 1, reset_less=True)
        start = delay(m, entry.value, 4, reset_less=True)
        value = delay(
            m, (start - (decrease >> numerics.STEP_BITS))[: len(start)], 1, reset_less=True
        )
        m.d.comb += [read.addr.eq(position >> numerics.STEP_BITS), self.value.eq(value)]
        return m
