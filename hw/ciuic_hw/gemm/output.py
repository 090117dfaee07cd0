"""The output stage: accumulators become results, a beat of INT32 columns a cycle."""

from amaranth.hdl import *
from amaranth.lib import data, stream
from amaranth.lib.wiring import Component, In, Out, connect, flipped

from ciuic.abi import PARAMETERS, OverlayConfig
from ciuic.abi.numerics import INT8_MAX, INT8_MIN, INT32_MAX, W4_SHIFT

from ..arithmetic import add
from ..axi.ports import beat_layout
from ..layouts import record_layout
from ..streams import PipelineFifo, SkidBuffer, StreamRegister, delay
from .job import result_lanes
from .scales import accumulator_bits

__all__ = ["OutputStage"]

SUM_BITS = 33  # an INT32 sum and an INT32 bias
FACTOR_BITS = 17  # unsigned, of a multiplier's 18
BEYOND = 1 << 10  # stands for all larger values: behind the residual they saturate, too
LATENCY = 16  # of the arithmetic before the residual
ROOM_LATENCY = 2  # until the drain, far from the FIFO, knows of room in it
WAITING = 64  # results that wait for the bus or for the residual


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


def _is_up(quotient, below):
    """Return whether to round up: more than a half below, or a half and the quotient is odd."""
    return below[-1] & (below[:-1].any() | quotient[0])


class OutputStage(Component):
    """Round, add the bias, requantize, add the residual, saturate, and pack into beats.

    The arithmetic is `ciuic.reference.gemm.output_stage`: a pipeline that does not stall, then a
    FIFO in which results wait for the residual and for the bus.

    Members
    -------
    step : In(stream)
        See `step_layout`.
    room : Out(1)
        ``step.ready`` in the next cycle.
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
                "room": Out(1),
                "residual": In(stream.Signature(beat_layout(config))),
                "beat": Out(stream.Signature(config.bus_bytes * 8)),
                "empty": Out(1),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, lanes = self.config, self.lanes
        step = self.step.p
        taken = Signal()
        result = data.StructLayout(
            {
                "values": data.ArrayLayout(signed(32), lanes),
                "requantize": 1,
                "residual": 1,
                "last": 1,
            }
        )
        m.submodules.results = results = PipelineFifo(
            result, depth=WAITING, latency=LATENCY + ROOM_LATENCY
        )
        m.d.comb += [
            self.room.eq(delay(m, results.room, ROOM_LATENCY - 1)),
            self.step.ready.eq(delay(m, self.room, 1)),
            taken.eq(self.step.valid & self.step.ready),
            results.valid.eq(delay(m, taken, LATENCY)),
        ]
        for name in ("requantize", "residual", "last"):
            value = delay(m, getattr(step, name), LATENCY, reset_less=True)
            m.d.comb += getattr(results.payload, name).eq(value)
        parameters = Signal(data.ArrayLayout(record_layout(PARAMETERS), lanes))
        m.d.comb += parameters.eq(Mux(step.has_parameters, step.parameters, 0))
        bits = accumulator_bits(config)
        for lane in range(lanes):
            raw = step.sums.word_select(lane, bits).as_signed()
            m.d.comb += results.payload["values"][lane].eq(
                self._value(m, raw, parameters[lane], step)
            )
        self._pack(m, results, taken)
        return m

    def _value(self, m, raw, parameters, step):
        """Return a column's result, `LATENCY` cycles later, the residual left out."""

        def pipe(value, cycles=1):
            return delay(m, value, cycles, reset_less=True)

        raw = pipe(raw)
        if self.config.w4:  # the sum over 2**W4_SHIFT; only the largest one overflows
            w4 = pipe(step.w4)
            up = pipe(w4 & _is_up(raw[W4_SHIFT:], raw[:W4_SHIFT]))
            whole = pipe(Mux(w4, raw >> W4_SHIFT, raw[:32].as_signed())) + up
            whole = pipe(whole[:33].as_signed())
            exact = pipe(Mux(whole[32] ^ whole[31], INT32_MAX, whole[:32].as_signed()))
        else:
            exact = pipe(raw, 3)
        bias = pipe(parameters.bias.as_signed(), 4)
        summed = pipe((exact + bias)[:SUM_BITS].as_signed())

        # Two multipliers, each with its own registers.
        multiplier = pipe(parameters.multiplier, 6)
        low = pipe(summed[:FACTOR_BITS])
        high = pipe(summed[FACTOR_BITS:].as_signed())
        low, high = pipe(low * multiplier, 2), pipe(high * multiplier, 2)
        scaled = add(m, high << FACTOR_BITS, low)

        # Shift right by whole bytes, then by bits, and know whether anything was shifted out behind
        # the byte below the unit.
        places = pipe(parameters.shift[:6], 11)
        in_bytes = pipe(Cat(scaled.word_select(i, 8).any() for i in range(7)))
        coarse = places[3:]
        shifted = pipe((pipe(scaled) << 8) >> (coarse << 3))
        lost = pipe(Cat(in_bytes[i] & (coarse > i + 1) for i in range(7)).any())
        fine = pipe(places[:3])
        lost = pipe(lost | Cat(shifted[i] & (fine > i) for i in range(7)).any())
        shifted = pipe(shifted >> fine)
        quotient, below = shifted[8:], Cat(lost, shifted[:8])
        upper = quotient[BEYOND.bit_length() - 1 :]
        up = pipe(_is_up(quotient, below))
        beyond = pipe(upper.any() & ~upper.all(), 2)
        limit = Mux(pipe(quotient[-1], 2), -BEYOND, BEYOND)
        rounded = pipe(pipe(quotient[: BEYOND.bit_length()].as_signed()) + up)

        plain = pipe(summed[:32].as_signed(), LATENCY - 6)
        requantize = pipe(step.requantize, LATENCY - 1)
        return pipe(Mux(requantize, Mux(beyond, limit, rounded), plain))

    def _pack(self, m, results, taken):
        """Add the residual and fill beats: INT32 fills one at once, INT8 a quarter."""
        lanes, width = self.lanes, self.config.bus_bytes * 8
        waiting_layout = data.StructLayout(
            {"result": results.o.p.shape(), "quarter": 2, "ends": 1, "takes_residual": 1}
        )
        m.submodules.waiting = waiting = SkidBuffer(waiting_layout)
        m.submodules.residual = residual = SkidBuffer(beat_layout(self.config))
        connect(m, flipped(self.residual), residual.i)

        # Which part of its beat a result fills, found out before it waits.
        quarter, ends = Signal(2), Signal()
        m.d.comb += [
            ends.eq(~results.o.p.requantize | results.o.p.last | (quarter == 3)),
            waiting.i.p.result.eq(results.o.p),
            waiting.i.p.quarter.eq(quarter),
            waiting.i.p.ends.eq(ends),
            waiting.i.p.takes_residual.eq(results.o.p.residual & ends),
            waiting.i.valid.eq(results.o.valid),
            results.o.ready.eq(waiting.i.ready),
        ]
        with m.If(results.o.valid & results.o.ready):
            m.d.sync += quarter.eq(Mux(ends, 0, quarter + 1))

        # The residual beside the result, the sum, and what it becomes in INT8.
        flags = {"requantize": 1, "quarter": 2, "ends": 1}
        joined_layout = data.StructLayout(
            {
                "values": data.ArrayLayout(signed(32), lanes),
                "wide": data.ArrayLayout(32, lanes),
                "narrow": data.ArrayLayout(signed(8), lanes),
                **flags,
            }
        )
        summed = data.StructLayout(
            {
                "wide": data.ArrayLayout(32, lanes),
                "narrow": data.ArrayLayout(signed(BEYOND.bit_length() + 2), lanes),
                **flags,
            }
        )
        packable = data.StructLayout({"wide": width, "narrow": width // 4, **flags})
        m.submodules.joined = joined = StreamRegister(joined_layout)
        m.submodules.sums = sums = StreamRegister(summed)
        m.submodules.skid = skid = SkidBuffer(packable)
        here, take = waiting.o.p, Signal()
        m.d.comb += [
            joined.i.valid.eq(waiting.o.valid & (~here.result.residual | residual.o.valid)),
            take.eq(joined.i.valid & joined.i.ready),
            waiting.o.ready.eq(take),
            residual.o.ready.eq(take & here.takes_residual),
            joined.i.p.requantize.eq(here.result.requantize),
            joined.i.p.quarter.eq(here.quarter),
            joined.i.p.ends.eq(here.ends),
            Value.cast(joined.i.p["values"]).eq(Value.cast(here.result["values"])),
        ]
        failed = residual.o.valid & residual.o.ready & residual.o.p.error
        m.d.sync += self.error.eq(failed)
        addends = Mux(here.result.residual, residual.o.p.data, 0)
        m.d.comb += [
            Value.cast(joined.i.p.wide).eq(addends),
            Value.cast(joined.i.p.narrow).eq(addends.word_select(here.quarter, width // 4)),
        ]
        for one, other in ((joined, sums), (sums, skid)):
            m.d.comb += [other.i.valid.eq(one.o.valid), one.o.ready.eq(other.i.ready)]
            m.d.comb += [getattr(other.i.p, name).eq(getattr(one.o.p, name)) for name in flags]
        terms = joined.o.p
        for lane, value in enumerate(terms["values"]):
            small = value[: BEYOND.bit_length() + 1].as_signed()
            m.d.comb += [
                sums.i.p.wide[lane].eq(value + terms.wide[lane]),
                sums.i.p.narrow[lane].eq(small + terms.narrow[lane]),
            ]
        m.d.comb += [
            skid.i.p.wide.eq(sums.o.p.wide),
            skid.i.p.narrow.eq(Cat(_saturate(value)[:8] for value in sums.o.p.narrow)),
        ]

        total, move = skid.o.p, skid.o.ready
        packed, merged = Signal(width), Signal(width)
        beat = Signal(width, reset_less=True)
        m.d.comb += [
            self.beat.p.eq(beat),
            move.eq(~self.beat.valid | self.beat.ready),
            merged.eq(packed | (total.narrow << (total.quarter * (width // 4)))),
        ]
        with m.If(move):
            m.d.sync += [
                self.beat.valid.eq(skid.o.valid & total.ends),
                beat.eq(Mux(total.requantize, merged, total.wide)),
            ]
            with m.If(skid.o.valid):
                m.d.sync += packed.eq(Mux(total.ends, 0, merged))

        # Steps that are not packed, counted two cycles late: where they enter is far from here.
        inside = Signal(range(LATENCY + WAITING + 16))
        entered, gone = delay(m, taken, 1), delay(m, skid.o.valid & move, 2)
        counted = delay(m, entered, 1)
        m.d.sync += inside.eq(inside + counted - gone)
        m.d.comb += self.empty.eq((inside == 0) & ~entered & ~counted & ~self.beat.valid)


def _saturate(value):
    """Return a signed value as INT8; looks at the bits above."""
    upper = value[7:]
    return Mux(
        upper.any() & ~upper.all(), Mux(value[-1], INT8_MIN, INT8_MAX), value[:8].as_signed()
    )
