"""The program of the first users runs unchanged."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ciuic.devices.opencl import list_devices
from ciuic.models.fetch import FETCH_COMMAND, smollm2_file

PROGRAM = Path(__file__).with_name("first_users.py")


@pytest.mark.opencl
@pytest.mark.skipif(
    not list_devices(), reason="needs an OpenCL runtime: pip install 'ciuic[opencl-cpu]'"
)
@pytest.mark.parametrize("fetched", [False, pytest.param(True, marks=pytest.mark.model)])
def test_it_prints_what_it_promises(fetched: bool) -> None:
    """With the model that comes with Ciuic, and with the one that is fetched."""
    if fetched and not smollm2_file().is_file():
        pytest.skip(f"needs {smollm2_file().name}; run: {FETCH_COMMAND}")
    model = [str(smollm2_file())] if fetched else []
    done = subprocess.run(
        [sys.executable, "-W", "error", str(PROGRAM), *model],
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
