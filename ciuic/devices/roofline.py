"""What a device can do: as assumed before anything was measured, or by a model of it."""

from __future__ import annotations

from typing import NamedTuple


class Roofline(NamedTuple):
    """What a device can do at most, as assumed before anything was measured."""

    flops_per_second: float
    bytes_per_second: float
    link_bytes_per_second: float
    task_seconds: float


class Estimate(NamedTuple):
    """What a model of the hardware says that a task takes.

    Attributes
    ----------
    seconds
        Of the device itself.
    products_on_host
        Whether the driver computes the task's products on the host, whose time comes on top.
    """

    seconds: float
    products_on_host: bool = False
