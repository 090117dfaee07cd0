"""OpenCL devices for tests, one per way to cut work; skips where no runtime works."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ciuic.devices.cpu import CpuDevice
from ciuic.devices.opencl import OpenclDevice, list_devices
from ciuic.devices.opencl_runtime import working_devices
from ciuic.devices.opencl_tuning import CPU_TUNING, GPU_TUNING

TUNINGS = {
    "cpu": CPU_TUNING,
    "gpu": GPU_TUNING,
    "gpu-without-double": GPU_TUNING._replace(real="float"),
}


@pytest.fixture(scope="session", params=TUNINGS)
def tuned(request: pytest.FixtureRequest) -> Iterator[OpenclDevice]:
    """The first OpenCL device, with each tuning in turn."""
    require_opencl()
    with OpenclDevice("opencl:0", working_devices()[0], TUNINGS[request.param]) as device:
        yield device


@pytest.fixture(scope="session")
def gpu() -> Iterator[OpenclDevice]:
    """The first OpenCL device, as users get it."""
    require_opencl()
    with OpenclDevice("opencl:0", working_devices()[0]) as device:
        yield device


@pytest.fixture(scope="session")
def cpu() -> Iterator[CpuDevice]:
    """The CPU."""
    with CpuDevice() as device:
        yield device


def require_opencl() -> None:
    if not list_devices():
        pytest.skip("needs an OpenCL runtime: pip install 'ciuic[opencl-cpu]'")
