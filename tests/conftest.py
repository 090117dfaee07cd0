"""What holds for every test: the user's own calibrations are not looked at, nor overwritten."""

from __future__ import annotations

from pathlib import Path

import pytest

from ciuic.scheduler import cost_store


@pytest.fixture(autouse=True)
def calibration_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where calibrations are kept during the test; there is none yet."""
    path = tmp_path / "calibration" / "calibration.json"
    monkeypatch.setattr(cost_store, "store_path", lambda: path)
    return path
