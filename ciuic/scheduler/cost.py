"""CostModel: the seconds that a task or transfer takes on a device.

Until a kind of task has been measured on a device, its time is the roofline of the device's
assumed figures; from then on, an average of what was measured, in which recent tasks weigh more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ciuic.devices import Device, TaskRecord
from ciuic.devices.statistics import TRANSFERS
from ciuic.ops import OPERATORS

Shape = tuple[int, ...]
RECENT = 0.25  # weight of the newest measurement in the average


class _Shaped(NamedTuple):
    """An input as far as cost rules look at it."""

    shape: Shape
    dtype: np.dtype[Any] = np.dtype(np.float32)


def shape_class(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return shapes with sizes rounded up to powers of two: tasks of a class cost about as much."""
    return tuple(tuple(1 << (size - 1).bit_length() for size in shape) for shape in shapes)


class CostModel:
    """Measured seconds per (operator, shape class, device), a roofline before."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, str, tuple[Shape, ...]], float] = {}
        self._links: dict[str, float] = {}  # seconds per byte, of large transfers

    def observe(self, record: TaskRecord) -> None:
        """Learn from a task or transfer."""
        if record.op in TRANSFERS:
            if record.nbytes >= LARGE_TRANSFER:
                self._links[record.device] = _average(
                    self._links.get(record.device), record.seconds / record.nbytes
                )
            return
        key = (record.device, record.op, shape_class(record.inputs))
        self._measured[key] = _average(self._measured.get(key), record.seconds)

    def seconds(
        self, device: Device, op: str, inputs: Iterable[Shape], attributes: Mapping[str, Any]
    ) -> float:
        """Return the seconds of one task."""
        shapes = tuple(inputs)
        measured = self._measured.get((device.uri, op, shape_class(shapes)))
        if measured is not None:
            return measured
        cost = OPERATORS[op].cost(*map(_Shaped, shapes), **attributes)
        roofline = device.roofline
        return roofline.task_seconds + max(
            cost.flops / roofline.flops_per_second, cost.nbytes / roofline.bytes_per_second
        )

    def is_measured(self, device: Device, op: str, inputs: Iterable[Shape]) -> bool:
        """Return whether such a task has run on the device."""
        return (device.uri, op, shape_class(inputs)) in self._measured

    def transfer_seconds(self, source: Device, target: Device, nbytes: int) -> float:
        """Return the seconds to move bytes between two devices, through the host."""
        if source is target:
            return 0.0
        return sum(
            device.roofline.task_seconds + nbytes * self._seconds_per_byte(device)
            for device in (source, target)
            if not device.host_memory
        )

    def _seconds_per_byte(self, device: Device) -> float:
        return self._links.get(device.uri, 1 / device.roofline.link_bytes_per_second)


LARGE_TRANSFER = 1 << 16  # bytes; smaller ones are latency, not bandwidth


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + RECENT * (new - old)
