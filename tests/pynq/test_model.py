"""A model on a simulated board: the tokens of the emulated overlay."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ..boards import served_board

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]

TOKENS = 2


def tokens(uri: str) -> tuple[list[int], int]:
    """Return what deepseek-tiny writes on a device alone, and the beats that it took."""
    place = f"0-5={uri},head={uri}"
    program = Path(sys.executable).with_name("ciuic")
    command = [program, "run", "--prompt", "It was", "--max-tokens", str(TOKENS), "--json"]
    done = subprocess.run([*command, "--place", place], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "could not be stopped" not in done.stderr
    report = json.loads(done.stdout)
    (fpga,) = report["fpga"]
    assert fpga["device"] == uri
    return report["token_ids"], fpga["beats"]


def test_deepseek_tiny_writes_the_same_on_a_board_as_emulated() -> None:
    emulated = tokens("fpga:emulated?config=tiny")
    assert len(emulated[0]) == TOKENS
    assert tokens("fpga:pynq-sim?config=tiny") == emulated
    with served_board("tiny") as uri:
        assert tokens(uri) == emulated
