"""CostModel: the seconds that a task or transfer takes on a device.

A kind of task (operator, sizes rounded up to powers of two, device) takes the average of what was
measured, in which recent tasks weigh more. A kind that was not measured takes what the nearest one
that `ciuic calibrate` measured took, in proportion to their rooflines; without that, the roofline
of the device's assumed figures. Links have a latency and seconds a byte.

The model also watches for *drift*: by how much what runs takes longer, or less, than it said when
the last plan was made.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ciuic.devices import Device, TaskRecord
from ciuic.devices.statistics import TRANSFERS
from ciuic.ops import OPERATORS

Shape = tuple[int, ...]
Kind = tuple[str, str, tuple[Shape, ...], int]  # device, operator, shape class, offset class

RECENT = 0.25  # weight of the newest measurement in the average
LARGE_TRANSFER = 1 << 16  # bytes; smaller ones are latency, not bandwidth
DRIFT_SECONDS = 0.1  # of planned work, before which a drift is noise


class _Shaped(NamedTuple):
    """An input as far as cost rules look at it."""

    shape: Shape
    dtype: np.dtype[Any] = np.dtype(np.float32)


class Calibrated(NamedTuple):
    """A kind of task as `ciuic calibrate` measured it.

    Attributes
    ----------
    op, inputs
        Operator, and shapes of its inputs.
    offset
        The attribute of that name, of tasks that read a cache.
    seconds
    roofline
        Seconds by the device's assumed figures, which others are compared with.
    """

    op: str
    inputs: tuple[Shape, ...]
    offset: int
    seconds: float
    roofline: float


class Link(NamedTuple):
    """The way between a device and the host."""

    latency: float  # seconds
    seconds_per_byte: float


@dataclass(frozen=True)
class Calibration:
    """What was measured of one device."""

    tasks: tuple[Calibrated, ...]
    link: Link | None = None  # None of a device whose memory is the host's


@dataclass
class _Average:
    """Seconds of a kind of task: now, and when the last plan was made."""

    seconds: float
    planned: float | None = None


@dataclass
class _Work:
    """Of one device, since the last plan."""

    planned: float = 0.0
    actual: float = 0.0


def shape_class(shapes: Iterable[Shape]) -> tuple[Shape, ...]:
    """Return shapes with sizes rounded up to powers of two: tasks of a class cost about as much."""
    return tuple(tuple(1 << (size - 1).bit_length() for size in shape) for shape in shapes)


class CostModel:
    """Measured seconds per (operator, shape class, device), estimates before.

    Parameters
    ----------
    stored
        Returns what was measured of a device in an earlier process, or None; asked once a device.
    """

    def __init__(self, stored: Callable[[Device], Calibration | None] = lambda _: None) -> None:
        self._stored = stored
        self._known: set[str] = set()
        self._measured: dict[Kind, _Average] = {}
        self._by_shape: dict[Kind, _Average] = {}  # the same by exact shapes
        self._calibrated: dict[tuple[str, str], list[Calibrated]] = {}
        self._links: dict[str, Link] = {}
        self._per_byte: dict[str, float] = {}  # seen since, of large transfers
        self._work: dict[str, _Work] = {}

    def calibrate(self, device: Device, calibration: Calibration) -> None:
        """Take over what was measured of a device before; what it did since counts for more."""
        self._known.add(device.uri)
        for task in calibration.tasks:
            kind = _kind(device.uri, task.op, task.inputs, task.offset)
            self._measured.setdefault(kind, _Average(task.seconds))
            self._calibrated.setdefault((device.uri, task.op), []).append(task)
        if calibration.link is not None:
            self._links[device.uri] = calibration.link

    def observe(self, record: TaskRecord) -> None:
        """Learn from a task or transfer."""
        if record.op in TRANSFERS:
            if record.nbytes >= LARGE_TRANSFER:
                self._learn_link(record)
            return
        # The exact shapes first: rounding them for each task would take longer than all the rest.
        offset = record.attributes.get("offset", 0)
        key = (record.device, record.op, record.inputs, offset.bit_length())
        average = self._by_shape.get(key)
        if average is None:
            kind = _kind(record.device, record.op, record.inputs, offset)
            average = self._measured.get(kind)
            if average is None:
                average = self._measured[kind] = _Average(record.seconds)
            self._by_shape[key] = average
        average.seconds += RECENT * (record.seconds - average.seconds)
        work = self._work.get(record.device)
        if work is not None and average.planned is not None:
            work.planned += average.planned
            work.actual += record.seconds

    def seconds(
        self, device: Device, op: str, inputs: Iterable[Shape], attributes: Mapping[str, Any]
    ) -> float:
        """Return the seconds of one task."""
        self._recall(device)
        shapes = tuple(inputs)
        measured = self._measured.get(_kind(device.uri, op, shapes, attributes.get("offset", 0)))
        if measured is not None:
            return measured.seconds
        roofline = roofline_seconds(device, op, shapes, attributes)
        alike = self._calibrated.get((device.uri, op))
        if not alike:
            return roofline
        nearest = min(alike, key=lambda task: abs(math.log(task.roofline / roofline)))
        return nearest.seconds * roofline / nearest.roofline

    def is_measured(
        self,
        device: Device,
        op: str,
        inputs: Iterable[Shape],
        attributes: Mapping[str, Any] | None = None,
    ) -> bool:
        """Return whether such a task has run on the device, or its operator was calibrated."""
        self._recall(device)
        offset = (attributes or {}).get("offset", 0)
        kind = _kind(device.uri, op, tuple(inputs), offset)
        return kind in self._measured or (device.uri, op) in self._calibrated

    def transfer_seconds(self, source: Device, target: Device, nbytes: int) -> float:
        """Return the seconds to move an array between two devices, through the host.

        None to and from a device whose arrays are on the host: what crosses its link does so within
        tasks.
        """
        if source is target:
            return 0.0
        links = [self._link(device) for device in (source, target) if not device.arrays_on_host]
        return sum(link.latency + nbytes * link.seconds_per_byte for link in links)

    def settle(self) -> None:
        """Take note that a plan is made by what is known now; drift counts from here on."""
        measured = list(self._measured.items())  # devices may be at work meanwhile
        for _, average in measured:
            average.planned = average.seconds
        self._work = {uri: _Work() for (uri, *_), _ in measured}

    def drift(self, uri: str) -> float:
        """Return by how much a device takes longer (above 0) or less than when planned.

        0 until it has done work that was to take `DRIFT_SECONDS`.
        """
        work = self._work.get(uri)
        if work is None or work.planned < DRIFT_SECONDS:
            return 0.0
        return work.actual / work.planned - 1

    def _recall(self, device: Device) -> None:
        """Take over what is stored of a device, the first time that it is asked about."""
        if device.uri in self._known:
            return
        self._known.add(device.uri)
        calibration = self._stored(device)
        if calibration is not None:
            self.calibrate(device, calibration)

    def _link(self, device: Device) -> Link:
        self._recall(device)
        assumed = device.roofline
        link = self._links.get(
            device.uri, Link(assumed.task_seconds, 1 / assumed.link_bytes_per_second)
        )
        return link._replace(seconds_per_byte=self._per_byte.get(device.uri, link.seconds_per_byte))

    def _learn_link(self, record: TaskRecord) -> None:
        """Correct the seconds a byte; the latency remains what was assumed or calibrated."""
        link = self._links.get(record.device, Link(0.0, 0.0))
        new = max(0.0, record.seconds - link.latency) / record.nbytes
        old = self._per_byte.get(record.device, link.seconds_per_byte or new)
        self._per_byte[record.device] = old + RECENT * (new - old)


def roofline_seconds(
    device: Device, op: str, inputs: Iterable[Shape], attributes: Mapping[str, Any]
) -> float:
    """Return the seconds of a task by the device's assumed figures."""
    cost = OPERATORS[op].cost(*map(_Shaped, inputs), **attributes)
    roofline = device.roofline
    return roofline.task_seconds + max(
        cost.flops / roofline.flops_per_second, cost.nbytes / roofline.bytes_per_second
    )


def _kind(device: str, op: str, inputs: tuple[Shape, ...], offset: int) -> Kind:
    return device, op, shape_class(inputs), offset.bit_length()
