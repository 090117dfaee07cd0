"""Devices: what computes. `base` states the rules; `cpu` and `opencl` are back ends."""

from .array import DeviceArray, Event
from .base import KINDS, Device, Kernel, Kind, Weight
from .manager import DeviceManager
from .roofline import Estimate, Roofline
from .statistics import OpCount, Statistics, TaskRecord

__all__ = [
    "KINDS",
    "Device",
    "DeviceArray",
    "DeviceManager",
    "Estimate",
    "Event",
    "Kernel",
    "Kind",
    "OpCount",
    "Roofline",
    "Statistics",
    "TaskRecord",
    "Weight",
]
