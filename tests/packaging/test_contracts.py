"""The import contracts of pyproject.toml hold, and would notice if they did not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytest.importorskip("importlinter", reason="needs import-linter: pip install 'ciuic[dev]'")


def contracts(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    environment = {
        "PYTHONPATH": ":".join(str(folder / root) for root in (".", "host", "hw", "sim"))
    }
    return subprocess.run(
        [program, "--no-logo", "--no-cache"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_import_contracts_hold() -> None:
    done = contracts(ROOT)
    assert done.returncode == 0, done.stdout


def test_an_import_upwards_is_noticed(tmp_path: Path) -> None:
    for root in ("ciuic", "host", "hw", "sim"):
        shutil.copytree(ROOT / root, tmp_path / root)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ciuic" / "errors.py").open("a") as file:
        file.write("\nimport ciuic_host.transport\n")
    done = contracts(tmp_path)
    assert done.returncode == 1
    assert "packages point down BROKEN" in done.stdout
