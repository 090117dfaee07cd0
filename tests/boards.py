"""Simulated boards in processes of their own, behind PYNQ.remote."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def board_process(config: str, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Give a process that serves a board, and the name by which the board is opened."""
    program = Path(sys.executable).with_name("ciuic")
    with TemporaryDirectory(prefix="ciuic-test-") as folder:
        command = [program, "board", "--config", config, "--port", "0", "--json"]
        with subprocess.Popen(
            [*command, "--bitstream", folder, *options], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                yield process, json.loads(process.stdout.readline())["uri"]
            finally:
                process.send_signal(signal.SIGCONT)  # a test may have stopped it
                process.terminate()


@contextmanager
def served_board(config: str, *options: str) -> Iterator[str]:
    """Give the name of a board in a process of its own."""
    with board_process(config, *options) as (_, uri):
        yield uri
