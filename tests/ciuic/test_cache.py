"""Where Ciuic keeps things."""

from __future__ import annotations

from pathlib import Path

import pytest

from ciuic.cache import cache_folder


def test_relative_cache_home_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ciuic"
