"""Devices: what computes. `base` states the rules; `cpu` and `opencl` are back ends."""

from .array import DeviceArray, Event
from .base import KINDS, Device, Kernel, Kind, Roofline, Weight
from .manager import DeviceManager
from .statistics import OpCount, Statistics, TaskRecord

__all__ = [
    "KINDS",
    "Device",
    "DeviceArray",
    "DeviceManager",
    "Event",
    "Kernel",
    "Kind",
    "OpCount",
    "Roofline",
    "Statistics",
    "TaskRecord",
    "Weight",
]
