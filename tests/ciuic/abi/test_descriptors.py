"""Descriptors and completion records: layout and round trips."""

from __future__ import annotations

import random
import re

import pytest

from ciuic.abi import COMPLETION, DESCRIPTOR, Field, Format, Record, Status
from ciuic.abi.descriptors import STATUS_REASON

RECORDS = pytest.mark.parametrize(
    "record", [DESCRIPTOR, COMPLETION], ids=["descriptor", "completion"]
)


@RECORDS
def test_records_are_powers_of_two_so_that_rings_are_aligned(record: Record) -> None:
    assert record.nbytes & (record.nbytes - 1) == 0
    assert 4096 % record.nbytes == 0


@RECORDS
def test_pack_and_unpack_are_inverse(record: Record) -> None:
    seed = random.SystemRandom().randrange(2**32)
    source = random.Random(seed)
    values = {field.name: source.randrange(1 << field.bits) for field in record.fields}
    data = record.pack(**values)
    assert len(data) == record.nbytes
    assert record.unpack(data) == values, f"seed {seed}"


@RECORDS
def test_each_field_has_bytes_of_its_own(record: Record) -> None:
    ones = [record.pack(**{field.name: (1 << field.bits) - 1}) for field in record.fields]
    total = sum(int.from_bytes(data, "little") for data in ones)
    either = 0
    for data in ones:
        either |= int.from_bytes(data, "little")
    assert total == either


def test_fields_are_little_endian_at_their_offset() -> None:
    data = DESCRIPTOR.pack(a_addr=0x0102030405060708)
    assert data[8:16] == bytes([8, 7, 6, 5, 4, 3, 2, 1])
    assert sum(data) == 36


def test_pack_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"^opcode must fit into 8 bits, not 256$"):
        DESCRIPTOR.pack(opcode=256)
    with pytest.raises(ValueError, match=r"^field must be one of \[.*\], not 'rows'$"):
        DESCRIPTOR.pack(rows=1)


def test_layouts_that_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match=re.escape("field b must not overlap and be aligned")):
        Record(8, (Field("a", 0, 16), Field("b", 1, 8)))
    with pytest.raises(ValueError, match=r"^fields must fit into 4 bytes, not 8$"):
        Record(4, (Field("a", 0, 64),))


def test_every_status_has_a_reason_and_every_format_a_size() -> None:
    assert set(STATUS_REASON) == set(Status)
    assert [form.nbytes for form in Format] == [4, 2, 1, 2, 1]
