"""The softmax engine's pipelines without handshake, in Amaranth's simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from amaranth.sim import Simulator
from ciuic_hw.softmax.exponential import ExponentialLane, RowSum
from ciuic_hw.softmax.normalize import ProbabilityLane, Rounding
from ciuic_hw.softmax.reciprocal import Reciprocal
from ciuic_hw.softmax.table import Interpolator

from ciuic.abi import Format, OverlayConfig, numerics
from ciuic.abi.numerics import SoftmaxScale
from ciuic.reference import softmax
from ciuic.reference.softmax import exponential, reciprocal

pytestmark = pytest.mark.rtl

LANES = [2, 4, 8, 16]
SEEDS = range(2)


def config_of(lanes: int) -> OverlayConfig:
    return OverlayConfig(name="test", rows=8, cols=8, lanes=lanes, max_row=64)


def run_pipeline(
    dut: Any,
    inputs: Sequence[Mapping[str, Any]],
    latency: int,
    output: Callable[[Any, Any], Any],
    constants: Mapping[str, int] | None = None,
    late: Sequence[str] = (),
) -> list[Any]:
    """Give a component inputs cycle by cycle; return its output to each, ``latency`` later.

    Inputs that are ``late`` come a cycle behind the others.
    """
    outputs = []

    async def testbench(ctx: Any) -> None:
        for name, value in (constants or {}).items():
            ctx.set(getattr(dut, name), value)
        for cycle in range(len(inputs) + latency):
            for name in inputs[0]:
                index = min(max(cycle - (name in late), 0), len(inputs) - 1)
                ctx.set(getattr(dut, name), inputs[index][name])
            await ctx.tick()
            if cycle >= latency - 1:
                outputs.append(output(ctx, dut))

    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()
    return outputs[: len(inputs)]


@pytest.mark.parametrize("tables", ["bram", "lut"])
@pytest.mark.parametrize("seed", SEEDS)
def test_interpolator_equals_its_table(seed: int, tables: str) -> None:
    positions = np.random.default_rng(seed).integers(0, 2**18, 500)
    positions[:3] = 0, 2**18 - 1, 1023
    config = replace(config_of(4), softmax_tables=tables)
    dut = Interpolator(config, numerics.exp2_table(), value_bits=18)
    values = run_pipeline(
        dut,
        [{"position": int(position)} for position in positions],
        dut.latency,
        lambda ctx, dut: ctx.get(dut.value),
    )
    mantissa, _ = exponential(positions, SoftmaxScale(1 << 16, numerics.PRE_SHIFT))
    assert values == mantissa.tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [2.0**-49, 3e-10, 1e-5, 0.3, 1.0, 40.0])
def test_exponential_lane_equals_the_golden_model(scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    encoded = SoftmaxScale.encode(scale)
    low, high = numerics.INT32_MIN, numerics.INT32_MAX
    near = np.clip(2.0 ** rng.uniform(0, 6, 150) / scale, 0, high)
    maximum = rng.integers(low // 2, high, 300, endpoint=True)
    score = np.concatenate([maximum[:150] - near.astype(np.int64), rng.integers(low, high, 150)])
    score = np.clip(np.minimum(score, maximum), low, high)
    maximum[:2], score[:2] = (high, low), (low, low)
    inside = rng.random(300) < 0.9
    outputs = run_pipeline(
        ExponentialLane(config_of(4)),
        [
            {"maximum": int(top), "score": int(one), "inside": int(valid)}
            for top, one, valid in zip(maximum, score, inside, strict=True)
        ],
        ExponentialLane.latency,
        lambda ctx, dut: (ctx.get(dut.o.mantissa), ctx.get(dut.o.halvings)),
        {"multiplier": encoded.multiplier, "shift": encoded.shift},
        late=["maximum"],
    )
    mantissa, halvings = exponential(maximum - score, encoded)
    mantissa[~inside] = 0
    assert [one for one, _ in outputs] == mantissa.tolist()
    counted = [halving for one, halving in outputs if one]
    assert counted == halvings[mantissa > 0].tolist()


@pytest.mark.parametrize("seed", SEEDS)
def test_reciprocal_equals_the_golden_model(seed: int) -> None:
    config = config_of(4)
    rng = np.random.default_rng(seed)
    one = 1 << numerics.SUM_FRACTION
    totals = (one * 2.0 ** rng.uniform(0, 6, 300)).astype(np.int64)
    totals[:5] = one, 2 * one - 1, 2 * one, 63 * one + 12345, config.max_row * one
    dut = Reciprocal(config)
    outputs = run_pipeline(
        dut,
        [{"total": int(total)} for total in totals],
        dut.latency,
        lambda ctx, dut: (ctx.get(dut.o.inverse), ctx.get(dut.o.norm)),
    )
    inverse, norm = reciprocal(totals)
    assert outputs == list(zip(inverse.tolist(), norm.tolist(), strict=True))


@pytest.mark.parametrize("seed", SEEDS)
def test_probability_lane_is_the_shifted_product(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mantissa = rng.integers(1 << 16, (1 << 17) + 1, 300)
    halvings = rng.integers(0, 32, 300)
    inverse, norm = rng.integers(1 << 16, 1 << 17, 300), rng.integers(0, 13, 300)
    outputs = run_pipeline(
        ProbabilityLane(),
        [
            {
                "exponential": {"mantissa": int(a), "halvings": int(b)},
                "reciprocal": {"inverse": int(c), "norm": int(d)},
            }
            for a, b, c, d in zip(mantissa, halvings, inverse, norm, strict=True)
        ],
        ProbabilityLane.latency,
        lambda ctx, dut: ctx.get(dut.o),
        late=["reciprocal"],
    )
    assert outputs == (mantissa * inverse >> 8 + halvings + norm).tolist()


def words(rng: np.random.Generator, lanes: int) -> list[tuple[int, int]]:
    """Return (taken, final) of some cycles."""
    return [(int(rng.random() < 0.7), int(rng.random() < 0.3)) for _ in range(200)]


@pytest.mark.parametrize("lanes", LANES)
def test_row_sum_adds_the_words_of_each_row(lanes: int) -> None:
    rng = np.random.default_rng(lanes)
    mantissa = rng.integers(0, (1 << 17) + 1, (200, lanes))
    halvings = rng.integers(0, 32, (200, lanes))
    flags = words(rng, lanes)
    outputs = run_pipeline(
        RowSum(config_of(lanes)),
        [
            {
                "i": [{"mantissa": int(a), "halvings": int(b)} for a, b in zip(*word, strict=True)],
                "taken": taken,
                "final": final,
            }
            for (taken, final), *word in zip(flags, mantissa, halvings, strict=True)
        ],
        RowSum.latency(lanes),
        lambda ctx, dut: (ctx.get(dut.valid), ctx.get(dut.total)),
    )
    sums = ((mantissa << 13) >> halvings).sum(axis=1)
    running = 0
    for (taken, final), total, (valid, found) in zip(flags, sums.tolist(), outputs, strict=True):
        running += total * taken
        assert valid == (taken and final)
        if valid:
            assert found == running
            running = 0


def rounded(rows: list[list[int]], narrow: bool) -> list[list[int]]:
    """Return the results of rows of probabilities, one element after the other."""
    unit = 1 << (18 if narrow else 10)
    results = []
    for row in rows:
        left = unit // 2
        results.append([])
        for probability in row:
            units, part = divmod(probability, unit)
            close = numerics.SNAP_8
            for least in (numerics.SNAP_8_LARGE, numerics.SNAP_8_MEDIUM):
                close //= 1 if units >= least else numerics.SNAP_8_STEP
            if narrow and part < close and units > 0:
                probability -= part
            elif narrow and part >= unit - close:
                probability += unit - part
            result, left = divmod(left + probability, unit)
            results[-1].append(min(result, 255 if narrow else 65535))
    return results


def random_probabilities(rng: np.random.Generator, size: tuple[int, int]) -> npt.NDArray[Any]:
    edges = [0, 1, 2**18 - 1, 2**18, 2**26, 2**26 + 2000]
    for distance in (2**12, 2**10, 2**8):  # on either side of what becomes a unit of 8 bits
        for units in (1, 3, 4, 15, 16, 100):
            for edge in (units * 2**18 + distance, units * 2**18 - distance):
                edges += [edge - 1, edge, edge + 1]
    values = rng.choice(edges, size)
    small = (2.0 ** rng.uniform(0, 26, size)).astype(np.int64)
    return np.where(rng.random(size) < 0.5, values, small)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("lanes", LANES)
def test_rounding_carries_the_remainder_along_a_row(lanes: int, narrow: bool) -> None:
    rng = np.random.default_rng(lanes)
    probabilities = random_probabilities(rng, (200, lanes))
    flags = words(rng, lanes)
    outputs = run_pipeline(
        Rounding(config_of(lanes)),
        [
            {"i": word, "taken": taken, "final": final}
            for word, (taken, final) in zip(probabilities.tolist(), flags, strict=True)
        ],
        Rounding.latency(lanes),
        lambda ctx, dut: [ctx.get(dut.o[lane]) for lane in range(lanes)],
        {"narrow": int(narrow)},
    )
    rows: list[list[int]] = [[]]
    found: list[list[int]] = [[]]
    for word, (taken, final), results in zip(probabilities.tolist(), flags, outputs, strict=True):
        if taken:
            rows[-1] += word
            found[-1] += [result & 255 for result in results] if narrow else results
            if final:
                rows.append([])
                found.append([])
    assert found == rounded(rows, narrow)


def test_rounding_is_that_of_the_golden_model() -> None:
    """The independent `rounded` above agrees with the model too, where both can be compared."""
    scores = np.zeros((1, 48), np.int8)
    probability = (2**17 * reciprocal(np.array([48 << numerics.SUM_FRACTION]))[0][0]) >> 8 + 5
    for out, narrow in ((Format.Q0_16, False), (Format.Q0_8, True)):
        results = softmax(scores, scale=SoftmaxScale.encode(1.0), out=out)
        assert results.tolist() == rounded([[int(probability)] * 48], narrow)
