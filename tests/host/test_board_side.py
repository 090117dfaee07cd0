"""What runs on a board: Python 3.10, and numpy alone until `pynq` is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

HOST = Path(__file__).parents[2] / "host" / "ciuic_host"
NEEDS_PYNQ = {"pynq_driver", "pynq_remote"}  # imported once there is pynq
MODULES = sorted(path.stem for path in HOST.glob("*.py") if path.stem not in NEEDS_PYNQ)
PROGRAM = """
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in ("ciuic", "ciuic_host", "numpy"):
            raise ModuleNotFoundError(f"refused: {name}")

import numpy
sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def run(*names: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROGRAM, *names], capture_output=True, text=True)


def test_numpy_is_all_that_the_driver_imports() -> None:
    done = run(*(f"ciuic_host.{name}" for name in MODULES if name != "__init__"))
    assert done.returncode == 0, done.stderr


def test_another_package_would_be_refused() -> None:
    assert "refused: amaranth" in run("amaranth").stderr


@pytest.mark.parametrize("path", sorted(HOST.glob("*.py")), ids=lambda path: path.stem)
def test_syntax_is_python_3_10(path: Path) -> None:
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 10))
