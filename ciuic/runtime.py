"""Runtime: the object that models hold. Runs operators on devices and keeps count.

``run`` returns at once with a handle; only ``numpy`` waits. Weights (`QuantizedMatrix`,
`CiuicTensor`) are brought to a device once and stay there; numpy arrays are copied each time.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from ciuic.devices import Device, DeviceArray, DeviceManager, Weight
from ciuic.memory.division import Division, divide
from ciuic.memory.tiers import Tier
from ciuic.scheduler.cost import CostModel
from ciuic.scheduler.cost_store import stored_calibration
from ciuic.scheduler.executor import HOST_URI, Executor, Input
from ciuic.scheduler.trace import Trace, Usage, UsageRow
from ciuic.tensor import CiuicTensor


class Runtime:
    """Runs operators by name on devices.

    Parameters
    ----------
    manager : DeviceManager, optional
        Opens devices; a new one by default.
    host_lanes : bool
        Whether the host serves each device in a queue of its own, see `Executor`.

    Attributes
    ----------
    manager : DeviceManager
    costs : CostModel
        Begins with what `ciuic calibrate` measured; learns from every task that runs.
    divisions : mapping
        Weight (a quantized matrix, or the value of a tensor) -> `Division`, of those linear layers
        that several devices compute together, or another device than the layer's.
    """

    def __init__(self, manager: DeviceManager | None = None, *, host_lanes: bool = False) -> None:
        self.manager = manager or DeviceManager()
        self.costs = CostModel(stored_calibration)
        self._executor = Executor(self.manager, host_lanes=host_lanes)
        self.divisions: WeakKeyDictionary[Any, Division] = WeakKeyDictionary()
        self._usage = Usage()
        self._counted_since = time.perf_counter()
        self._executor.observe(self.costs.observe)
        self._executor.observe(self._usage)

    def device(self, device: Device | str) -> Device:
        """Return a device by URI, or the device given; its tasks are counted from now on."""
        return self._executor.device(device)

    def division(self, weight: Weight) -> Division | None:
        """Return how a weight is divided over devices; None if it is whole on its layer's."""
        if not self.divisions:
            return None
        return self.divisions.get(weight.value if isinstance(weight, CiuicTensor) else weight)

    def divide(
        self, weight: Weight, shares: Sequence[tuple[Device, int]], bias: Weight | None = None
    ) -> Division:
        """Have a linear layer's columns computed by several devices, see `division.divide`.

        Raises
        ------
        UsageError
            If the shares are not those of all columns.
        """
        division = divide(weight, shares, bias)
        self.divisions[weight.value if isinstance(weight, CiuicTensor) else weight] = division
        return division

    def together(self) -> AbstractContextManager[None]:
        """Return a context whose tasks do not depend on one another: devices overlap there.

        Running them needs no such hint; a dry run makes use of it.
        """
        return nullcontext()

    def make_whole(self, weight: Weight) -> None:
        """Have a linear layer computed by its layer's device again."""
        self.divisions.pop(weight.value if isinstance(weight, CiuicTensor) else weight, None)

    def home(self, op: str, device: Device) -> Device:
        """Return the device that will run an operator: the one given, or the host for it."""
        return device if device.supports(op) else self._executor.host_for(device)

    def run(
        self,
        op: str,
        inputs: Sequence[Input],
        *,
        device: Device | str = HOST_URI,
        **attributes: Any,
    ) -> DeviceArray:
        """Submit an operator (`ciuic.ops`, or a registered custom one); return its result's handle.

        If the device has no kernel for it, the host runs it, and the report says so.

        Raises
        ------
        UsageError
            If there is no such operator.
        ShapeError
            If the inputs do not fit.
        OutOfMemory
            If the device has no room.
        """
        return self._executor.run(op, inputs, device, attributes)

    def place(self, value: Input, device: Device | str = HOST_URI) -> DeviceArray:
        """Return a value as an array on a device, moved there if need be."""
        return self._executor.place(value, self._executor.device(device))

    def zeros(
        self,
        shape: tuple[int, ...],
        *,
        device: Device | str = HOST_URI,
        dtype: npt.DTypeLike = np.float32,
    ) -> DeviceArray:
        """Return an array of zeros on a device."""
        return self._executor.device(device).zeros(shape, dtype)

    def numpy(self, array: DeviceArray | CiuicTensor) -> npt.NDArray[Any]:
        """Return the contents of an array, read-only; wait for them."""
        return array.numpy()

    def tensor(self, array: DeviceArray) -> CiuicTensor:
        """Return an array on a device as a tensor; nothing moves."""
        return CiuicTensor.from_device(array)

    def synchronize(self) -> None:
        """Wait until everything submitted is done and counted."""
        self._executor.synchronize()

    @property
    def fallbacks(self) -> Counter[tuple[str, str]]:
        """(URI of the device asked for, operator) -> tasks that the host ran for want of a kernel.

        Counted when they are submitted, since the last ``reset_usage``.
        """
        return Counter(self._executor.fallbacks)

    def usage(self) -> list[UsageRow]:
        """Return what each device has done since the last ``reset_usage``; wait for all of it."""
        self.synchronize()
        passed = time.perf_counter() - self._counted_since
        return self._usage.rows(self._executor.fallbacks, passed)

    def reset_usage(self) -> None:
        """Begin to count anew."""
        self.synchronize()
        self._usage.clear()
        self._executor.fallbacks.clear()
        self._counted_since = time.perf_counter()

    def start_trace(self) -> Trace:
        """Return a trace that records every task, transfer and wait from now on."""
        trace = Trace()
        self._executor.observe(trace, waits=True)
        return trace

    def stop_trace(self, trace: Trace) -> None:
        """End a trace once everything submitted so far is in it."""
        self.synchronize()
        self._executor.ignore(trace)
        trace.tiers = {
            device.uri: (Tier.HOST if device.host_memory else Tier.DEVICE).value
            for device in self._executor.devices
        }


@lru_cache(maxsize=1)
def default_runtime() -> Runtime:
    """Return the runtime of those who name none."""
    return Runtime()
