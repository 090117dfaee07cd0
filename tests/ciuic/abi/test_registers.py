"""The register map: no overlaps, inside its span, fields round trip."""

from __future__ import annotations

import random
import re

import pytest

from ciuic.abi import registers
from ciuic.abi.registers import BY_NAME, COUNTERS, REGISTERS, Register


def test_registers_do_not_overlap_and_lie_inside_the_span() -> None:
    offsets = sorted(register.offset for register in REGISTERS)
    assert all(offset % 4 == 0 for offset in offsets)
    assert len(set(offsets)) == len(offsets)
    assert offsets[0] >= 0
    assert offsets[-1] + 4 <= registers.SPAN


def test_names_are_unique_and_found() -> None:
    assert len(BY_NAME) == len(REGISTERS)
    assert all(BY_NAME[register.name] is register for register in REGISTERS)


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_fields_do_not_overlap_and_fit(register: Register) -> None:
    taken = 0
    for field in register.fields:
        mask = (1 << field.width) - 1 << field.low
        assert field.width > 0
        assert taken & mask == 0
        assert mask < 1 << 32
        taken |= mask


@pytest.mark.parametrize("register", REGISTERS, ids=lambda register: register.name)
def test_encode_and_decode_are_inverse(register: Register) -> None:
    seed = random.SystemRandom().randrange(2**32)
    source = random.Random(seed)
    values = {field.name: source.randrange(1 << field.width) for field in register.fields}
    if register.fields:
        assert register.decode(register.encode(**values)) == values, f"seed {seed}"
    else:
        value = source.randrange(1 << 32)
        assert register.decode(value) == {register.name.lower(): value}, f"seed {seed}"


def test_encode_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=re.escape("reset must fit into 1 bits, not 2")):
        registers.CONTROL.encode(reset=2)
    with pytest.raises(ValueError, match=r"^field must be one of \['enable', 'reset'\], not 'go'$"):
        registers.CONTROL.encode(go=1)


@pytest.mark.parametrize("name", COUNTERS)
def test_counters_are_a_low_and_a_high_register(name: str) -> None:
    low, high = registers.counter(name)
    assert high.offset == low.offset + 4
    assert (BY_NAME[low.name], BY_NAME[high.name]) == (low, high)
