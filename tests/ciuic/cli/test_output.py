"""Tables, JSON and progress."""

from __future__ import annotations

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ciuic.abi import Opcode
from ciuic.cli import output


def test_table_aligns_words_left_and_numbers_right() -> None:
    rows = [{"device": "cpu", "tasks": 12}, {"device": "opencl:0", "tasks": 3456}]
    assert output.table(rows) == (
        "device    tasks\n"
        "--------  -----\n"
        "cpu          12\n"
        "opencl:0  3,456"
    )  # fmt: skip


def test_table_shows_what_is_absent_as_a_dash() -> None:
    rows = [{"a": None, "b": True, "c": 0.12504}, {"a": 1.0, "b": False, "c": 1234.5}]
    assert output.table(rows, ["c", "b", "a"]) == (
        "    c    b  a\n"
        "-----  ---  -\n"
        "0.125  yes  -\n"
        "1,234   no  1"
    )  # fmt: skip


def test_table_without_rows_is_its_headings() -> None:
    assert output.table([], ["a"]) == "a\n-"


def test_json_understands_what_commands_hold(capsys: pytest.CaptureFixture[str]) -> None:
    @dataclass
    class Row:
        path: Path
        values: np.ndarray

    output.print_json({"row": Row(Path("x"), np.arange(2)), "op": Opcode.GEMM, "n": np.int8(3)})
    assert json.loads(capsys.readouterr().out) == {
        "row": {"path": "x", "values": [0, 1]},
        "op": 1,
        "n": 3,
    }


def test_json_refuses_what_it_does_not_know() -> None:
    with pytest.raises(TypeError, match=r"^value must be plain data, not <object object at .*>$"):
        output.print_json(object())


def test_progress_in_a_log_is_one_line_when_somebody_waited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(output, "WAIT_SECONDS", 0.0)
    log = io.StringIO()
    with output.progress(log) as report:
        for done in range(4):
            report("reading", done, 3)
    assert re.fullmatch(r"reading: done in \d+\.\d s\n", log.getvalue())


def test_progress_of_short_work_says_nothing_in_a_log() -> None:
    log = io.StringIO()
    with output.progress(log) as report:
        report("reading", 3, 3)
    assert log.getvalue() == ""


def test_progress_on_a_terminal_is_a_bar() -> None:
    pytest.importorskip("rich", reason="needs rich: pip install 'ciuic[cli]'")

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    with output.progress(terminal) as report:
        report("reading", 1, 4)
        report("reading", 4, 4)
    assert "reading" in terminal.getvalue()
    assert "100 %" in terminal.getvalue()
