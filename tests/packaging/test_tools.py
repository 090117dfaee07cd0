"""The Makefile and its tools."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_make_help_lists_every_target() -> None:
    targets = re.findall(r"^([\w-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE)
    shown = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([\w-]+) ", shown, re.MULTILINE) == targets
    assert set(targets) >= {"demo", "test", "test-pynq", "lint", "bench", "env", "clean"}


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert "make test" in (ROOT / "README.md").read_text()


def test_file_over_the_limit_fails(tmp_path: Path) -> None:
    (tmp_path / "ciuic").mkdir()
    (tmp_path / "ciuic" / "short.py").write_text("\n" * 500)
    tool = ROOT / "tools" / "file_sizes.py"
    assert run(tool, tmp_path).returncode == 0
    (tmp_path / "ciuic" / "long.py").write_text("\n" * 501)
    done = run(tool, tmp_path)
    assert done.returncode == 1
    assert done.stdout == (
        "  501  ciuic/long.py\n  500  ciuic/short.py\nciuic/long.py: at most 500 lines, not 501\n"
    )


def test_quietly_hides_the_output_of_what_works() -> None:
    done = run("tools/quietly.py", "greeting", sys.executable, "-c", "print('hello')")
    assert done.returncode == 0
    assert done.stdout.startswith("greeting ...\ngreeting: done in ")
    assert "hello" not in done.stdout


def test_quietly_shows_the_output_of_what_fails_and_its_status() -> None:
    program = "print('hello'); raise SystemExit(3)"
    done = run("tools/quietly.py", "greeting", sys.executable, "-c", program)
    assert done.returncode == 3
    assert done.stdout.startswith("greeting ...\nhello\ngreeting: failed with status 3: ")
