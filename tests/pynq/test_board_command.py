"""`ciuic board`: what it prints, and that Ctrl-C ends it."""

from __future__ import annotations

import signal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from ciuic.cli import main

from ..boards import board_process

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]


def test_the_name_that_it_prints_has_a_bitstream_and_ctrl_c_ends_it() -> None:
    # A process whose parent ignores Ctrl-C would ignore it too.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with board_process("tiny") as (process, uri):
            (bitstream,) = parse_qs(urlsplit(uri).query)["bitstream"]
            assert Path(bitstream).with_suffix(".hwh").is_file()
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
    finally:
        signal.signal(signal.SIGINT, before)


def test_memory_beyond_the_boards_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["board", "--memory", "257"]) == 2
    assert "--memory must be 1 to 256 MiB, not 257" in capsys.readouterr().err
