"""Programs run by a build."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from ciuic_hw.build import processes

from ciuic.errors import CiuicError


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


def test_all_run_and_in_parallel(tmp_path: Path) -> None:
    nap = "import time, pathlib; time.sleep(0.5); pathlib.Path('{}').touch()"
    start = time.monotonic()
    processes.run_all([python(nap.format(name)) for name in "ab"], folder=tmp_path)
    assert time.monotonic() - start < 0.95
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_failure_ends_the_others(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(processes.BuildFailed):
        processes.run_all(
            [python("import sys; sys.exit(1)"), python("import time; time.sleep(30)")],
            folder=tmp_path,
        )
    assert time.monotonic() - start < 10
