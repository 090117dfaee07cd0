"""Arithmetic in few levels of logic."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed

__all__ = ["add", "count", "countdown", "highest", "less", "total"]


def less(one: Value, other: Value) -> Value:
    """Return whether one value is less than another.

    It is the sign of their difference, so a single carry chain; synthesis makes of a comparison a
    chain and several levels of logic behind it.
    """
    return (one - other)[-1]


def add(m: Module, one: Value, other: Value) -> Value:
    """Return the sum of two signed values as it was two cycles ago.

    The upper half of the sum is made in the second of them, with the carry of the lower one.
    """
    bits = max(len(one), len(other)) + 1
    half = bits // 2
    terms = [Signal(signed(bits), name=f"term_{n}") for n in range(2)]
    highs = [Signal(bits - half, name=f"high_{n}", reset_less=True) for n in range(2)]
    low = Signal(half + 1, reset_less=True)
    whole = Signal(signed(bits), reset_less=True)
    m.d.comb += [term.eq(value) for term, value in zip(terms, (one, other), strict=True)]
    m.d.sync += [
        low.eq(terms[0][:half] + terms[1][:half]),
        *(high.eq(term[half:]) for high, term in zip(highs, terms, strict=True)),
        # A carry is added as one below the lowest bit.
        whole.eq(Cat(low[:half], (Cat(C(1, 1), highs[0]) + Cat(low[half], highs[1]))[1:])),
    ]
    return whole


def total(m: Module, base: Value, amount: Value, *, start: Value, step: Value) -> Value:
    """Return a register that takes ``base`` at ``start`` and grows by ``amount`` with each step.

    It is right from the second cycle behind a step on, as its upper half sees the carry of the
    lower one a cycle late. The amount must hold for a cycle behind a step.
    """
    half = len(base) // 2
    low, high = Signal(half, reset_less=True), Signal(len(base) - half, reset_less=True)
    carry, stepped = Signal(reset_less=True), Signal()
    m.d.sync += stepped.eq(step & ~start)
    with m.If(step):
        m.d.sync += Cat(low, carry).eq(low + amount[:half])
    with m.If(stepped):
        m.d.sync += high.eq((Cat(C(1, 1), high) + Cat(carry, amount[half:]))[1:])
    with m.If(start):
        m.d.sync += Cat(low, high).eq(base)
    return Cat(low, high)


def count(m: Module, step: Value, clear: Value, bits: int, *, name: str) -> Value:
    """Return a register that counts the cycles of a strobe, right from the second one behind it.

    Its upper half sees the carry of the lower one a cycle late, so either is a short carry chain.
    """
    half = bits // 2
    low, high = Signal(half + 1, name=f"{name}_low"), Signal(bits - half, name=f"{name}_high")
    with m.If(clear):
        m.d.sync += [low.eq(0), high.eq(0)]
    with m.Else():
        m.d.sync += [low.eq(low[:half] + step), high.eq(high + low[half])]
    return Cat(low[:half], high)


def countdown(m: Module, number: Value, *, start: Value, step: Value) -> Value:
    """Return a register that says whether steps are left of a number of them.

    ``start`` takes the number, one at least. A step may come late in its cycle: what is left is
    counted a cycle behind it, and whether one step alone is left is known before it comes.
    """
    more, last, stepped = Signal(), Signal(), Signal()
    near = Signal(2)  # two are left; three are
    left = Signal(number.shape(), reset_less=True)
    m.d.sync += stepped.eq(step)
    with m.If(start):
        m.d.sync += [more.eq(1), last.eq(number == 1)]
    with m.Elif(step):
        m.d.sync += [more.eq(~last), last.eq(Mux(stepped, near[1], near[0]))]
    with m.If(start):
        m.d.sync += [left.eq(number), near.eq(Cat(number == 2, number == 3))]
    with m.Elif(stepped):
        m.d.sync += [left.eq(left - 1), near.eq(Cat(near[1], left == 4))]
    return more


def highest(value: Value) -> tuple[Value, Value]:
    """Return whether a bit of a value is set, and which is the highest that is.

    Halves are looked at side by side, so it takes a level of logic for each doubling of the bits.
    """
    if len(value) == 1:
        return value, C(0, 0)
    half = 1 << (len(value) - 1).bit_length() - 1
    (low, low_place), (high, high_place) = highest(value[:half]), highest(value[half:])
    return low | high, Cat(Mux(high, high_place, low_place), high)
