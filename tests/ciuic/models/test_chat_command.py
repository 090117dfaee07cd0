"""`ciuic chat` as a process: pipes, a terminal, and a real SIGINT."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ciuic.cli import main
from ciuic.models.loading import load_model

from .conftest import Write
from .test_conversation import KEYS

COMMAND = [sys.executable, "-c", "import sys; from ciuic.cli import main; sys.exit(main())", "chat"]
WAIT_SECONDS = 60


@contextmanager
def process(*arguments: str, stdin: Any = subprocess.PIPE) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as running:
        limit = threading.Timer(WAIT_SECONDS, running.kill)  # reads must not wait for ever
        limit.start()
        try:
            yield running
        finally:
            limit.cancel()
            running.kill()


def talk(lines: str, *arguments: str) -> tuple[int, str, str]:
    with process(*arguments) as running:
        out, err = running.communicate(lines.encode(), timeout=WAIT_SECONDS)
    return running.returncode, out.decode(), err.decode()


def test_each_line_of_a_script_is_a_turn(small_model: Write, tmp_path: Path) -> None:
    path, saved = str(small_model(90)), tmp_path / "talk.json"
    script = f"the\n\n a 12\n/save {saved}\n/reset\nthe\n"
    status, out, err = talk(script, path, "--max-tokens", "6")
    assert status == 0
    assert err == "(ended at --max-tokens)\n" * 3
    messages = json.loads(saved.read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == ["the", "a 12"]
    first, second = (m["content"] for m in messages if m["role"] == "assistant")
    assert out == f"{first}\n{second}\n{first}\n"
    with load_model(path, quantize="int8") as model:
        assert "".join(model.generate("the", 6)) == first
        assert "".join(model.generate(model.encode_chat(messages[:-1]), 6)) == second


def test_a_turn_reads_what_is_new(small_model: Write) -> None:
    _, _, err = talk("b\nb\n", str(small_model(90, keys=KEYS)), "--max-tokens", "6", "--verbose")
    found = re.findall(r"(\d+) tokens read, (\d+) were in the cache, 6 written", err)
    (first, none), (second, known) = ((int(a), int(b)) for a, b in found)
    assert none == 0
    assert known == first + 5  # the prompt and the answer but for its last token
    assert second == 1 + len("\0\0user: b\0\0assistant: ")  # special tokens stand as \0


def test_conversation_is_loaded_and_goes_on(small_model: Write, tmp_path: Path) -> None:
    path, saved = str(small_model(91)), tmp_path / "talk.json"
    options = [path, "--max-tokens", "6", "--system", "a", "--temperature", "0.5", "--seed", "3"]
    _, whole, _ = talk(f"the\n/save {saved}\nb\n/exit\nnever\n", *options)
    status, rest, _ = talk(f"/load {saved}\nb\n", *options)
    assert status == 0
    assert whole.endswith(rest)
    assert len(json.loads(saved.read_text())["messages"]) == 3


def test_lines_that_cannot_be_used_are_told_and_the_rest_goes_on(
    small_model: Write, tmp_path: Path
) -> None:
    script = f"/sav\n/save\n/help me\n/load {tmp_path}/no\n{'x' * 200}\n/help\nthe\n"
    status, out, err = talk(script, str(small_model(92)), "--max-tokens", "3")
    assert status == 2
    error, *rest = err.splitlines()
    assert error == (
        "ciuic: error: command must be one of /help, /reset, /save, /load, /exit, not '/sav'; "
        "did you mean '/save'?"
    )
    full = "the conversation has 209 tokens with this message, more than the 128 of the model's"
    assert rest == [
        "ciuic: error: /save takes a file, not ''",
        "ciuic: error: /help takes nothing, not 'me'",
        f"ciuic: error: {tmp_path}/no: cannot be read (No such file or directory)",
        f"ciuic: error: {full} context",
        "(/reset begins anew, /save FILE keeps the conversation)",
        "(ended at --max-tokens)",
    ]
    assert out.startswith("/help         show this\n")
    assert "Traceback" not in err


def test_line_that_is_no_text_is_refused(small_model: Write) -> None:
    with process(str(small_model(92)), "--max-tokens", "3") as running:
        out, err = running.communicate(b"a\xff\n/\xff\nthe\n", timeout=WAIT_SECONDS)
    first, second, _ = err.decode().splitlines()
    assert first.startswith("ciuic: error: a prompt must be valid Unicode text")
    assert second.startswith("ciuic: error: command must be one of /help, ")
    assert running.returncode == 2
    assert out


def test_answer_that_fills_the_context_says_so(small_model: Write) -> None:
    status, _, err = talk("x" * 110 + "\n", str(small_model(92)))
    assert status == 0
    assert err.startswith("(the model's context is full: /reset begins anew, /save FILE keeps")


def test_interrupt_stops_the_answer_and_not_the_program(tmp_path: Path) -> None:
    """The trained model would write for long; the signal comes once it has begun."""
    saved = tmp_path / "talk.json"
    with process("--max-tokens", "1000000") as running:
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stderr is not None
        for number in range(2):
            running.stdin.write(b"It is a truth\n")
            running.stdin.flush()
            assert len(running.stdout.read(5)) == 5, f"answer {number}"
            running.send_signal(signal.SIGINT)
            while running.stderr.readline() not in (b"(stopped)\n", b""):
                pass
        out, err = running.communicate(f"/save {saved}\n".encode(), timeout=WAIT_SECONDS)
    assert (running.returncode, err) == (0, b"")
    messages = json.loads(saved.read_text())["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant"] * 2
    assert all(len(message["content"]) >= 5 for message in messages)
    assert len(out) < 2000  # the context would hold ten thousand characters


def test_terminal_interrupt_at_the_prompt_and_leaving(small_model: Write) -> None:
    controller, terminal = pty.openpty()
    try:
        with process(str(small_model(93)), "--max-tokens", "4", stdin=terminal) as running:
            assert running.stdout is not None
            assert running.stdout.read(2) == b"> "
            time.sleep(0.5)  # a signal between the prompt and the wait is seen after the next line
            running.send_signal(signal.SIGINT)
            assert running.stdout.read(2) == b"> "
            os.write(controller, b"the\n")
            os.write(controller, b"\x04")
            out, err = running.communicate(timeout=WAIT_SECONDS)
    finally:
        os.close(controller)
        os.close(terminal)
    assert running.returncode == 0
    assert err.decode().splitlines() == [
        "(small; /help shows the commands, Ctrl-D leaves)",
        "(Ctrl-D or /exit leaves)",
        "(ended at --max-tokens)",
    ]
    assert out.decode().endswith("\n> \n")


def test_model_without_template_is_refused_before_work(
    small_model: Write, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ciuic.models.model.Model.load", lambda *_: pytest.fail("work began"))
    assert main(["chat", str(small_model(without="tokenizer.chat_template"))]) == 2
    assert "small has no chat template" in capsys.readouterr().err


def test_a_model_that_does_not_fit_its_device_answers_the_same(small_model: Write) -> None:
    path = str(small_model(90, tied=False))
    fpga = ["--place", "*=fpga:emulated?config=tiny", "--max-tokens", "6"]
    status, whole, _ = talk("the\n", path, *fpga)
    assert status == 0
    status, capped, _ = talk("the\n", path, *fpga, "--cap", "FPGA=520000")
    assert (status, capped) == (0, whole)
    status, _, err = talk("the\n", path, *fpga, "--cap", "FPGA=6000")
    assert status == 2
    assert "would fit" in err
