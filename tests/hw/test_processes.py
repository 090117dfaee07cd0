"""Programs run by a build."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ciuic_hw.build import processes

from ciuic.errors import CiuicError, DeviceError


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_the_output_is_returned(tmp_path: Path) -> None:
    assert processes.run(python("print('here')"), folder=tmp_path) == "here\n"


def test_a_failure_shows_the_end_of_the_output(tmp_path: Path) -> None:
    code = "import sys; print('\\n'.join(map(str, range(99)))); sys.exit(3)"
    with pytest.raises(processes.BuildFailed) as caught:
        processes.run(python(code), folder=tmp_path)
    assert isinstance(caught.value, CiuicError)
    assert caught.value.code == 3
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("ended with exit code 3:")
    assert lines[1:] == [str(number) for number in range(99 - processes.LOG_LINES, 99)]


def test_the_output_can_be_read_while_the_program_runs(tmp_path: Path) -> None:
    code = "import pathlib; print('far', flush=True); print(pathlib.Path('log').read_text()[:3])"
    assert processes.run(python(code), folder=tmp_path, log="log") == "far\nfar\n"
    assert (tmp_path / "log").read_text() == "far\nfar\n"


def test_a_program_without_an_end_is_killed(tmp_path: Path) -> None:
    code = "import time; print('far', flush=True); time.sleep(600)"
    message = r"^router did not end within 2 s; .*log says how far it came$"
    with pytest.raises(DeviceError, match=message):
        processes.run(python(code), folder=tmp_path, name="router", log="log", limit_seconds=2.0)
    assert (tmp_path / "log").read_text() == "far\n"


def test_all_run_and_in_parallel(tmp_path: Path) -> None:
    meet = """
import pathlib, sys, time
mine, other = map(pathlib.Path, sys.argv[1:])
mine.touch()
until = time.monotonic() + 60
while not other.exists():
    assert time.monotonic() < until, "the other program was not started"
    time.sleep(0.01)
"""
    processes.run_all([[*python(meet), *names] for names in ("ab", "ba")], folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(processes.BuildFailed):
        processes.run_all(
            [python("import sys; sys.exit(1)"), python("import time; time.sleep(30)")],
            folder=tmp_path,
        )
    assert time.monotonic() - start < 10
