"""Finds OpenCL devices that really work: each has built a kernel and given the right numbers.

A CPU runtime from PyPI (``intel-opencl-rt``) serves where there is no GPU. Its wheel registers
nothing, so its libraries are loaded here, before pyopencl looks for platforms; runtimes that are
installed in the system stay in charge beside it.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ciuic.errors import DeviceError, ToolMissing

logger = logging.getLogger(__name__)

INSTALL = "pip install 'ciuic[opencl-cpu]'"
VENDORS_VARIABLE = "OCL_ICD_VENDORS"  # where the loader of pyopencl looks for runtimes
SYSTEM_VENDORS = Path("/etc/OpenCL/vendors")
RUNTIME_LIBRARY = "libintelocl.so"
# What the runtime needs and does not find by itself, in this order.
SUPPORT_LIBRARIES = ("libimf.so", "libintlc.so.5", "libirng.so", "libsvml.so")

PROBE_SOURCE = """
kernel void probe(global const int *x, global int *y) {
    size_t i = get_global_id(0);
    y[i] = 3 * x[i] + (int)i;
}
"""


@lru_cache(maxsize=1)
def opencl() -> Any:
    """Return pyopencl, with the CPU runtime registered if it is installed.

    Raises
    ------
    ToolMissing
        If pyopencl is not installed.
    """
    if importlib.util.find_spec("pyopencl") is None:
        raise ToolMissing("pyopencl", needed_for="the OpenCL device", install=INSTALL)
    _register_cpu_runtime(Path(sys.prefix) / "lib")
    import pyopencl

    return pyopencl


def _register_cpu_runtime(libraries: Path) -> None:
    runtime = libraries / RUNTIME_LIBRARY
    if VENDORS_VARIABLE in os.environ or not runtime.exists():
        return
    try:
        for name in SUPPORT_LIBRARIES:
            ctypes.CDLL(str(libraries / name), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        logger.info("the OpenCL CPU runtime in %s cannot be used: %s", libraries, error)
        return
    installed = sorted(SYSTEM_VENDORS.glob("*.icd")) if SYSTEM_VENDORS.is_dir() else []
    if not installed:
        os.environ[VENDORS_VARIABLE] = str(runtime)
        return
    folder = Path(tempfile.mkdtemp(prefix="ciuic-opencl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for icd in installed:
        shutil.copy(icd, folder)
    (folder / "ciuic-cpu.icd").write_text(f"{runtime}\n")
    os.environ[VENDORS_VARIABLE] = str(folder)


@lru_cache(maxsize=1)
def working_devices() -> tuple[Any, ...]:
    """Return the devices (`pyopencl.Device`) that passed the probe, GPUs before CPUs."""
    cl = opencl()
    try:
        platforms = cl.get_platforms()
    except cl.Error as error:
        logger.info("no OpenCL platform: %s", error)
        return ()
    found = [device for platform in platforms for device in _devices_of(cl, platform)]
    found.sort(key=is_cpu)
    return tuple(device for device in found if _passes(cl, device))


def _devices_of(cl: Any, platform: Any) -> list[Any]:
    wanted = cl.device_type.GPU | cl.device_type.CPU
    try:
        return list(platform.get_devices(wanted))
    except cl.Error as error:
        logger.info("OpenCL platform %s does not work: %s", platform.name, error)
        return []


def is_cpu(device: Any) -> bool:
    """Return whether an OpenCL device is a processor that stands in for a GPU."""
    return bool(device.type & opencl().device_type.CPU)


def _passes(cl: Any, device: Any) -> bool:
    numbers = np.arange(-32, 32, dtype=np.int32)
    result = np.zeros_like(numbers)
    flags = cl.mem_flags
    try:
        context = cl.Context([device])
        queue = cl.CommandQueue(context)
        program = build(context, PROBE_SOURCE)
        source = cl.Buffer(context, flags.READ_ONLY | flags.COPY_HOST_PTR, hostbuf=numbers)
        target = cl.Buffer(context, flags.WRITE_ONLY, result.nbytes)
        cl.Kernel(program, "probe")(queue, numbers.shape, None, source, target)
        cl.enqueue_copy(queue, result, target)
        queue.finish()
    except (cl.Error, RuntimeError) as error:
        logger.info("OpenCL device %s does not work: %s", device.name, error)
        return False
    return bool((result == 3 * numbers + np.arange(64)).all())


@contextmanager
def device_errors(uri: str) -> Iterator[None]:
    """Turn what OpenCL raises into a `DeviceError` that names the device."""
    try:
        yield
    except opencl().Error as error:
        raise DeviceError(f"{uri}: {error}") from error


def build(context: Any, source: str, options: list[str] | None = None) -> Any:
    """Return a program built from source; what the compiler says is logged, not warned about."""
    program = opencl().Program(context, source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return program.build(options or [])
