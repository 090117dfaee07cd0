"""The output stage: accumulators become results, a beat of INT32 columns a cycle."""

from itertools import pairwise

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out

from ciuic.abi import PARAMETERS, OverlayConfig
from ciuic.abi.numerics import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    INT32_MIN,
    REQUANT_MULTIPLIER_BITS,
    W4_SHIFT,
)

from ..axi.ports import beat_layout
from ..layouts import record_layout
from .epilogue import result_lanes
from .scales import accumulator_bits

__all__ = ["OutputStage"]

SUM_BITS = 33  # an INT32 sum and an INT32 bias
SCALED_BITS = SUM_BITS + REQUANT_MULTIPLIER_BITS + 1
ROUNDED_BITS = 11  # enough that clamping here and saturating behind the residual is exact


def step_layout(config: OverlayConfig) -> data.StructLayout:
    """Return what enters the stage: columns with their parameters, and how to treat them."""
    lanes = result_lanes(config)
    return data.StructLayout(
        {
            "sums": lanes * accumulator_bits(config),
            "parameters": lanes * PARAMETERS.nbytes * 8,
            "w4": 1,
            "has_parameters": 1,
            "requantize": 1,
            "residual": 1,
            "last": 1,  # last columns of a row
        }
    )


def _saturate(value, low, high):
    return Mux(value < low, low, Mux(value > high, high, value))


def round_half_even(value, shift):
    """Return a signed value over 2**shift, rounded half to even; shift may be a signal."""
    quotient = value >> shift
    below = value & ((1 << shift) - 1)
    twice = (below << 1)[: len(value) + 1]
    unit = (1 << shift)[: len(value) + 1]
    up = (twice > unit) | ((twice == unit) & quotient[0])
    return quotient + up


class OutputStage(Component):
    """Round, add the bias, requantize, add the residual, saturate, and pack into beats.

    The arithmetic is `ciuic.reference.gemm.output_stage`. Four steps and the beat, all of which
    move together.

    Members
    -------
    step : In(stream)
        See `step_layout`.
    residual : In(stream)
        Beats of the residual, in the order of the results.
    beat : Out(stream)
        Beats of results; the last of a row may be partly filled.
    empty : Out(1)
        Nothing is in the stage.
    error : Out(1)
        Strobe: the memory refused a read of the residual.
    """

    def __init__(self, config: OverlayConfig):
        self.config = config
        self.lanes = result_lanes(config)
        super().__init__(
            {
                "step": In(stream.Signature(step_layout(config))),
                "residual": In(stream.Signature(beat_layout(config))),
                "beat": Out(stream.Signature(config.bus_bytes * 8)),
                "empty": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.lanes
        bits = accumulator_bits(config)
        move = Signal()

        # How a step is treated travels with it.
        how = data.StructLayout({"valid": 1, "requantize": 1, "residual": 1, "last": 1})
        stages = [Signal(how, name=f"how_{i}") for i in range(4)]
        first = stages[0]
        with m.If(move):
            m.d.sync += [
                first.valid.eq(self.step.valid),
                first.requantize.eq(self.step.p.requantize),
                first.residual.eq(self.step.p.residual),
                first.last.eq(self.step.p.last),
            ]
            for before, after in pairwise(stages):
                m.d.sync += after.eq(before)
        m.d.comb += self.step.ready.eq(move)

        parameters = data.ArrayLayout(record_layout(PARAMETERS), lanes)
        given = Signal(parameters)
        held = [Signal(parameters, name=f"parameters_{i}") for i in range(3)]
        m.d.comb += given.eq(Mux(self.step.p.has_parameters, self.step.p.parameters, 0))
        with m.If(move):
            for before, after in zip((given, *held), held, strict=False):
                m.d.sync += after.eq(before)

        results = []
        for lane in range(lanes):
            raw = self.step.p.sums.word_select(lane, bits).as_signed()
            exact = Signal(signed(32), name=f"exact_{lane}")
            summed = Signal(signed(SUM_BITS), name=f"summed_{lane}")
            scaled = Signal(signed(SCALED_BITS), name=f"scaled_{lane}")
            plain = [Signal(signed(32), name=f"plain_{lane}_{i}") for i in range(2)]
            rounded = Signal(signed(ROUNDED_BITS), name=f"rounded_{lane}")
            with m.If(move):
                if config.w4:
                    whole = round_half_even(raw, Const(W4_SHIFT))
                    with m.If(self.step.valid & self.step.p.w4):
                        m.d.sync += exact.eq(_saturate(whole, INT32_MIN, INT32_MAX))
                    with m.Else():
                        m.d.sync += exact.eq(raw)
                else:
                    m.d.sync += exact.eq(raw)
                with m.If(stages[0].valid):
                    m.d.sync += summed.eq(exact + held[0][lane].bias.as_signed())
                with m.If(stages[1].valid):
                    m.d.sync += plain[0].eq(summed)
                    with m.If(stages[1].requantize):
                        m.d.sync += scaled.eq(summed * held[1][lane].multiplier)
                with m.If(stages[2].valid):
                    m.d.sync += plain[1].eq(plain[0])
                    with m.If(stages[2].requantize):
                        value = round_half_even(scaled, held[2][lane].shift[:6])
                        limit = 1 << ROUNDED_BITS - 1
                        m.d.sync += rounded.eq(_saturate(value, -limit, limit - 1))
            results.append((plain[1], rounded))

        # Residual and packing: INT32 fills a beat at once, INT8 a quarter.
        here = stages[3]
        quarter = Signal(2)
        packed = Signal(config.bus_bytes * 8)
        wide = Signal(config.bus_bytes * 8)
        narrow = Signal(config.bus_bytes * 2)
        beat_done, residual_there = Signal(), Signal()
        residual = Mux(here.residual, self.residual.p.data, 0)
        for lane, (plain, rounded) in enumerate(results):
            addend = residual.word_select(lane, 32).as_signed()
            m.d.comb += wide.word_select(lane, 32).eq(plain + addend)
            small = residual.word_select(quarter, config.bus_bytes * 2).word_select(lane, 8)
            m.d.comb += narrow.word_select(lane, 8).eq(
                _saturate(rounded + small.as_signed(), INT8_MIN, INT8_MAX)
            )
        m.d.comb += [
            beat_done.eq(~here.requantize | here.last | (quarter == 3)),
            residual_there.eq(~(here.valid & here.residual) | self.residual.valid),
            move.eq((~self.beat.valid | self.beat.ready) & residual_there),
            self.residual.ready.eq(move & here.valid & here.residual & beat_done),
            self.error.eq(self.residual.valid & self.residual.ready & self.residual.p.error),
            self.empty.eq(~Cat(s.valid for s in stages).any() & ~self.beat.valid),
        ]
        merged = Signal(config.bus_bytes * 8)
        m.d.comb += merged.eq(packed | (narrow << (quarter * (config.bus_bytes * 2))))
        with m.If(self.beat.ready):
            m.d.sync += self.beat.valid.eq(0)
        with m.If(move & here.valid):
            m.d.sync += [
                self.beat.valid.eq(beat_done),
                self.beat.p.eq(Mux(here.requantize, merged, wide)),
                packed.eq(Mux(beat_done, 0, merged)),
                quarter.eq(Mux(beat_done, 0, quarter + 1)),
            ]
        return m
