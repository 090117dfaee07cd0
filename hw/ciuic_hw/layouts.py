"""The records of `ciuic.abi.descriptors` as Amaranth layouts: bit for bit what lies in memory."""

from amaranth.lib import data

from ciuic.abi import COMPLETION, DESCRIPTOR, Record

__all__ = ["COMPLETION_LAYOUT", "DESCRIPTOR_LAYOUT", "record_layout"]


def record_layout(record: Record) -> data.FlexibleLayout:
    """Return the layout of a record in memory, the first byte in the lowest bits."""
    return data.FlexibleLayout(
        record.nbytes * 8,
        {field.name: data.Field(field.bits, field.offset * 8) for field in record.fields},
    )


DESCRIPTOR_LAYOUT = record_layout(DESCRIPTOR)
COMPLETION_LAYOUT = record_layout(COMPLETION)
