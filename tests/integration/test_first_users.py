"""The program of the first users runs unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ciuic.devices.opencl import list_devices
from ciuic.models.fetch import FETCH_COMMAND, default_model_path

PROGRAM = Path(__file__).with_name("first_users.py")


@pytest.fixture(scope="module")
def model_path() -> Path:
    path = default_model_path()
    if not path.is_file():
        pytest.skip(f"needs {path.name}; run: {FETCH_COMMAND}")
    return path


@pytest.mark.model
@pytest.mark.opencl
@pytest.mark.skipif(
    not list_devices(), reason="needs an OpenCL runtime: pip install 'ciuic[opencl-cpu]'"
)
def test_it_prints_what_it_promises(model_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), str(model_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "split over GPU and CPU",
        "placed by the scheduler",
        "FastSoftmax",
        "first users",
    ]
    assert lines[-1] == "first users: ok"
    assert done.stderr == ""
