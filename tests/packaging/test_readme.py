"""The README is run: its commands, its Python, the paths it names.

Commands are the lines of ``sh`` blocks and inline code that starts with a program's name. Targets
of make must exist (`make test` is what runs this), pytest's paths must be among those that `make
test` runs; every other command and every ``python`` block is run here in an empty folder.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LIMIT_LINES = 200
LIMIT_SECONDS = 300.0  # one command, on a busy machine, its first build included

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`((?:ciuic|python|pytest|make) [^`]+)`")
LINK = re.compile(r"\]\(([^)#:]+)\)")
BLOCKS = FENCE.findall(README)
PROSE = FENCE.sub("", README)


def commands() -> list[str]:
    lines = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    found = [line.partition("  #")[0].strip() for line in lines] + INLINE.findall(PROSE)
    return [command for command in dict.fromkeys(found) if command]


def marks(text: str) -> list[pytest.MarkDecorator]:
    """Return the markers of what a command or program needs."""
    needs = {
        "model": r"ciuic (run|chat|plan|convert|fetch|doctor|bench quality)|load_model",
        "rtl": r"rtl|bench sim|ciuic_hw",
    }
    return [getattr(pytest.mark, mark) for mark, sign in needs.items() if re.search(sign, text)]


def run(command: list[str] | str, folder: Path) -> None:
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env={**os.environ, "PATH": programs},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout


RUN_HERE = [text for text in commands() if not text.startswith(("make ", "pytest "))]
PROGRAMS = [text for kind, text in BLOCKS if kind == "python"]


@pytest.mark.parametrize(
    "command", [pytest.param(text, marks=marks(text), id=text) for text in RUN_HERE]
)
def test_command_works(command: str, tmp_path: Path) -> None:
    run(command, tmp_path)


@pytest.mark.parametrize("program", [pytest.param(text, marks=marks(text)) for text in PROGRAMS])
def test_program_works(program: str, tmp_path: Path) -> None:
    run([sys.executable, "-c", program], tmp_path)


def test_make_targets_exist() -> None:
    named = {word for text in commands() for word in re.findall(r"^make (\w+)", text)}
    targets = set(re.findall(r"^(\w+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


def test_benches_are_among_those_that_make_test_runs() -> None:
    paths = [word for text in commands() if text.startswith("pytest ") for word in text.split()[1:]]
    assert paths
    for path in paths:
        assert path.startswith(("sim/benches/", "tests/"))
        assert (ROOT / path).exists()


def test_every_block_says_what_it_is() -> None:
    assert {kind for kind, _ in BLOCKS} <= {"sh", "python", "text"}


def test_links_lead_somewhere() -> None:
    assert [path for path in LINK.findall(PROSE) if not (ROOT / path).exists()] == []


def test_readme_stays_short() -> None:
    assert len(README.splitlines()) < LIMIT_LINES


def test_every_row_of_the_status_table_has_its_mark_and_its_command() -> None:
    rows = [line for line in README.splitlines() if re.match(r"\|.*\*[a-z A-Z]+\*", line)]
    assert rows
    measured = {
        "measured on RTL",
        "measured on the CPU",
        "proven",
        "synthesized",
        "placed and routed",
    }
    allowed = measured | {"emulated", "estimated", "not run"}
    for row in rows:
        _, _what, mark, shown_by, _ = (cell.strip() for cell in row.split("|"))
        assert mark.strip("*") in allowed, row
        assert mark == "*not run*" or INLINE.search(shown_by), row
