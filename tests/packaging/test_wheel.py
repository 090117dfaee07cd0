"""The wheel holds the four packages, all of their files, bitstreams and notebooks, nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOTS = {"ciuic": ".", "ciuic_host": "host", "ciuic_hw": "hw", "ciuic_sim": "sim"}
INCLUDED = {"bitstreams": "ciuic/overlays", "host/notebooks": "ciuic_host/notebooks"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the names of the files in the wheel, built with no network."""
    pytest.importorskip("hatchling", reason="needs hatchling: pip install 'ciuic[dev]'")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_four_packages_and_nothing_else(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOTS)
    assert len(tops) == len(ROOTS) + 1


def test_wheel_holds_every_file_of_the_packages(wheel: list[str]) -> None:
    expected = {
        path.relative_to(ROOT / root).as_posix()
        for package, root in ROOTS.items()
        for path in (ROOT / root / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    expected |= {
        f"{target}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, target in INCLUDED.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert expected == {name for name in wheel if ".dist-info/" not in name}


def test_packages_say_that_they_are_typed(wheel: list[str]) -> None:
    assert {f"{package}/py.typed" for package in ROOTS} <= set(wheel)


def test_licence_and_command_are_in_the_metadata(wheel: list[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel)
    assert any(name.endswith(".dist-info/entry_points.txt") for name in wheel)


def test_source_roots_are_no_packages() -> None:
    assert [root for root in ("host", "hw", "sim") if (ROOT / root / "__init__.py").exists()] == []
