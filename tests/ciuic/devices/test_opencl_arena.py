"""The memory of the OpenCL device's arena: what the device refuses, and what is lost then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ciuic.devices.opencl import OpenclDevice
from ciuic.devices.opencl_runtime import opencl, working_devices
from ciuic.errors import DeviceError, OutOfMemory

from .conftest import require_opencl

pytestmark = pytest.mark.opencl


@pytest.fixture
def device() -> Iterator[OpenclDevice]:
    """An OpenCL device whose arena is empty."""
    require_opencl()
    with OpenclDevice("opencl:0", working_devices()[0]) as device:
        yield device


def normal(seed: int, *shape: int) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_a_result_too_large_for_a_buffer_is_refused_with_figures(
    device: OpenclDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_largest_buffer", 1000)
    with pytest.raises(OutOfMemory, match=r"^one buffer of opencl:0: 1,664 bytes wanted, 1,000 of"):
        device.adopt(normal(1, 20, 20))
    assert len(device._places) == len(device.given)


def test_an_arena_that_cannot_grow_is_lost(
    device: OpenclDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its contents are gone; nobody gets anything else for them."""
    before = device.submit("add", [device.adopt(normal(1, 2, 3))] * 2)
    before.wait()
    cl: Any = opencl()

    def no_memory(*_: Any, **__: Any) -> Callable[..., Any]:
        raise cl.MemoryError("clCreateBuffer failed: OUT_OF_RESOURCES")

    with monkeypatch.context() as patch:
        patch.setattr(cl, "Buffer", no_memory)
        big = device.adopt(normal(1, 300, 300))
        with pytest.raises(DeviceError, match=r"^opencl:0: the arena of .* could not grow: .*RESO"):
            big.numpy()
    for array in (before.output, device.adopt(normal(1, 2, 3))):
        with pytest.raises(DeviceError, match=r"^opencl:0: the arena of .* could not grow"):
            array.numpy()
