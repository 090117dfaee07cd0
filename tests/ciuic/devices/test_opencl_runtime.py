"""Which OpenCL devices are offered: only those that built a kernel and gave the right numbers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ciuic.devices import opencl_runtime
from ciuic.devices.opencl import list_devices, open_device
from ciuic.devices.opencl_runtime import VENDORS_VARIABLE, opencl, working_devices
from ciuic.errors import DeviceNotFound, ToolMissing

from .conftest import require_opencl

WRONG_SOURCE = opencl_runtime.PROBE_SOURCE.replace("3 *", "2 *")


@pytest.fixture
def afresh() -> Iterator[None]:
    """Look for devices anew in this test and after it."""
    working_devices.cache_clear()
    opencl.cache_clear()
    yield
    working_devices.cache_clear()
    opencl.cache_clear()


@pytest.mark.opencl
@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("source", [WRONG_SOURCE, "kernel void probe() { nonsense }"])
def test_a_device_that_fails_the_probe_is_not_offered(
    monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    require_opencl()
    working_devices.cache_clear()
    monkeypatch.setattr(opencl_runtime, "PROBE_SOURCE", source)
    assert list_devices() == []
    with pytest.raises(
        DeviceNotFound,
        match=r"^no device 'opencl': no OpenCL runtime works here; a CPU runtime: "
        r"pip install 'ciuic\[opencl-cpu\]'$",
    ):
        open_device("opencl")


@pytest.mark.opencl
@pytest.mark.usefixtures("afresh")
def test_a_broken_platform_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    require_opencl()
    working = len(working_devices())
    cl = opencl()

    def broken(_wanted: Any) -> Any:
        raise cl.LogicError("clGetDeviceIDs failed")

    platforms = [SimpleNamespace(name="broken", get_devices=broken), *cl.get_platforms()]
    monkeypatch.setattr(cl, "get_platforms", lambda: platforms)
    working_devices.cache_clear()
    assert len(working_devices()) == working


@pytest.mark.usefixtures("afresh")
def test_without_pyopencl_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencl_runtime.importlib.util, "find_spec", lambda _name: None)
    assert list_devices() == []
    with pytest.raises(
        ToolMissing,
        match=r"^the OpenCL device needs pyopencl, which is not installed; "
        r"run: pip install 'ciuic\[opencl-cpu\]'$",
    ):
        open_device("opencl")


@pytest.fixture
def libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that holds the CPU runtime in name; nothing of it is loaded."""
    monkeypatch.delenv(VENDORS_VARIABLE, raising=False)
    monkeypatch.setattr(opencl_runtime.ctypes, "CDLL", lambda *_arguments, **_named: None)
    monkeypatch.setattr(opencl_runtime, "SYSTEM_VENDORS", tmp_path / "vendors")
    (tmp_path / opencl_runtime.RUNTIME_LIBRARY).touch()
    return tmp_path


def register(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> str | None:
    opencl_runtime._register_cpu_runtime(libraries)
    found = os.environ.get(VENDORS_VARIABLE)
    monkeypatch.delenv(VENDORS_VARIABLE, raising=False)
    return found


def test_the_cpu_runtime_is_registered(libraries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = str(libraries / opencl_runtime.RUNTIME_LIBRARY)
    assert register(libraries, monkeypatch) == runtime


def test_runtimes_of_the_system_stay_beside_it(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opencl_runtime.SYSTEM_VENDORS.mkdir()
    (opencl_runtime.SYSTEM_VENDORS / "gpu.icd").write_text("libgpu.so\n")
    folder = Path(str(register(libraries, monkeypatch)))
    assert {path.name: path.read_text() for path in folder.iterdir()} == {
        "gpu.icd": "libgpu.so\n",
        "ciuic-cpu.icd": f"{libraries / opencl_runtime.RUNTIME_LIBRARY}\n",
    }


def test_the_users_own_choice_of_runtimes_stays(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VENDORS_VARIABLE, "/chosen")
    assert register(libraries, monkeypatch) == "/chosen"


def test_a_cpu_runtime_that_cannot_be_loaded_is_left_out(
    libraries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any, **_named: Any) -> None:
        raise OSError("libimf.so: cannot open shared object file")

    monkeypatch.setattr(opencl_runtime.ctypes, "CDLL", fail)
    assert register(libraries, monkeypatch) is None
