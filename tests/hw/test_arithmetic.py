# amaranth: UnusedElaboratable=no
"""Arithmetic of the gateware, in Amaranth's simulator."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator
from ciuic_hw.arithmetic import add, count, countdown, highest, less, total

BITS = 6


def simulate(m: Module, testbench: Any) -> None:
    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(testbench)
    simulator.run()


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(3))
def test_a_count_is_right_from_the_second_cycle_behind_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = Module()
    step, clear = Signal(), Signal()
    counted = Signal(BITS)
    m.d.comb += counted.eq(count(m, step, clear, BITS, name="count"))
    expected: list[int] = []

    async def testbench(ctx: Any) -> None:
        now = 0
        for _ in range(3000):
            steps, clears = rng.random() < 0.8, rng.random() < 0.005
            ctx.set(step, steps)
            ctx.set(clear, clears)
            await ctx.tick()
            now = 0 if clears else (now + steps) % (1 << BITS)
            expected.append(now)
            if rng.random() < 0.2:  # look once the steps have come to an end
                ctx.set(step, 0)
                ctx.set(clear, 0)
                await ctx.tick()
                assert ctx.get(counted) == now

    simulate(m, testbench)
    assert max(expected) == (1 << BITS) - 1  # it wrapped


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(3))
def test_a_sum_comes_two_cycles_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = Module()
    one, other = Signal(signed(BITS)), Signal(signed(BITS - 1))
    summed = Signal(signed(BITS + 1))
    m.d.comb += summed.eq(add(m, one, other))

    async def testbench(ctx: Any) -> None:
        sums: list[int] = []
        for _ in range(3000):
            terms = [int(rng.integers(-(1 << bits), 1 << bits)) for bits in (BITS - 1, BITS - 2)]
            ctx.set(one, terms[0])
            ctx.set(other, terms[1])
            sums.append(sum(terms))
            await ctx.tick()
            if len(sums) > 1:
                assert ctx.get(summed) == sums[-2], f"seed {seed}"

    simulate(m, testbench)


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(3))
def test_a_total_is_right_from_the_second_cycle_behind_a_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = Module()
    base, amount, start, step = Signal(BITS), Signal(BITS - 1), Signal(), Signal()
    summed = Signal(BITS)
    m.d.comb += summed.eq(total(m, base, amount, start=start, step=step))

    async def testbench(ctx: Any) -> None:
        for _ in range(60):
            expected = int(rng.integers(1 << BITS))
            each = int(rng.integers(1 << BITS - 1))
            ctx.set(base, expected)
            ctx.set(start, 1)
            ctx.set(step, int(rng.random() < 0.5))
            await ctx.tick()
            ctx.set(start, 0)
            ctx.set(base, int(rng.integers(1 << BITS)))
            ctx.set(amount, each)
            assert ctx.get(summed) == expected, f"seed {seed}"
            steps = rng.random(20) < rng.choice([0.3, 0.8])
            for stepping in (*steps, *rng.integers(2, size=2)):
                ctx.set(step, int(stepping))
                await ctx.tick()
                expected = (expected + each * int(stepping)) % (1 << BITS)
                if not stepping:  # look once a step has settled
                    assert ctx.get(summed) == expected, f"seed {seed}"

    simulate(m, testbench)


@pytest.mark.rtl
@pytest.mark.parametrize("seed", range(3))
def test_a_countdown_ends_with_its_last_step(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = Module()
    number, start, step = Signal(BITS), Signal(), Signal()
    more = Signal()
    m.d.comb += more.eq(countdown(m, number, start=start, step=step))

    async def testbench(ctx: Any) -> None:
        assert not ctx.get(more)
        for steps in (1, 2, 3, 4, *rng.integers(1, 1 << BITS, 60).tolist()):
            often = rng.choice([0.3, 0.8, 1.0])
            ctx.set(number, steps)
            ctx.set(start, 1)
            await ctx.tick()
            ctx.set(start, 0)
            ctx.set(number, int(rng.integers(1 << BITS)))
            while steps:
                assert ctx.get(more), f"seed {seed}: {steps} left"
                stepping = bool(rng.random() < often)
                ctx.set(step, stepping)
                await ctx.tick()
                steps -= stepping
            ctx.set(step, 0)
            assert not ctx.get(more), f"seed {seed}"
            for _ in range(rng.integers(3)):
                await ctx.tick()
                assert not ctx.get(more), f"seed {seed}"

    simulate(m, testbench)


def test_less_and_highest_for_all_values() -> None:
    m = Module()
    one, other = Signal(4), Signal(4)
    some, place = highest(one)

    async def testbench(ctx: Any) -> None:
        for first in range(16):
            ctx.set(one, first)
            assert ctx.get(some) == (first != 0)
            if first:
                assert ctx.get(place) == first.bit_length() - 1
            for second in range(16):
                ctx.set(other, second)
                assert ctx.get(less(one, other)) == (first < second)

    simulator = Simulator(m)
    simulator.add_testbench(testbench)
    simulator.run()
