"""`ciuic fetch`: the path of the model on stdout, progress on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ciuic import cli
from ciuic.cli import output
from ciuic.models import fetch


@pytest.mark.parametrize("as_json", [False, True])
def test_path_is_printed_and_work_is_reported(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetched(report: output.Report) -> Path:
        report("downloading", 1, 2)
        report("downloading", 2, 2)
        return Path("folder") / "model.gguf"

    monkeypatch.setattr(fetch, "fetch_smollm2", fetched)
    monkeypatch.setattr(output, "WAIT_SECONDS", 0.0)
    assert cli.main(["fetch", "--json"] if as_json else ["fetch"]) == 0
    shown = capsys.readouterr()
    path = json.loads(shown.out)["path"] if as_json else shown.out.strip()
    assert path == "folder/model.gguf"
    assert shown.err.startswith("downloading: done in ")
