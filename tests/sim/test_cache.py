"""The cache of build products."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest
from ciuic_sim import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def entries(kind: str) -> list[str]:
    return sorted(path.name for path in (cache.cache_folder() / kind).iterdir() if path.is_dir())


def test_an_entry_is_built_once() -> None:
    built = []

    def build(folder: Path) -> None:
        built.append(folder)
        (folder / "file").write_text("content")

    first = cache.entry("kind", "key", build)
    assert cache.entry("kind", "key", build) == first
    assert len(built) == 1
    assert (first / "file").read_text() == "content"
    assert entries("kind") == ["key"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_build_that_is_cut_off_leaves_nothing(error: type[BaseException]) -> None:
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise error

    with pytest.raises(error):
        cache.entry("kind", "key", build)
    assert entries("kind") == []
    assert cache.entry("kind", "key", lambda folder: None).exists()


def _build_slowly(folder: Path) -> None:
    time.sleep(0.2)
    (folder / str(time.monotonic_ns())).touch()


def _take(results: multiprocessing.SimpleQueue[list[str]]) -> None:
    place = cache.entry("kind", "key", _build_slowly)
    results.put([path.name for path in place.iterdir()])


def test_parallel_processes_build_once() -> None:
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.SimpleQueue[list[str]] = context.SimpleQueue()
    workers = [context.Process(target=_take, args=(results,)) for _ in range(3)]
    for worker in workers:
        worker.start()
    found = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    results.close()
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 1


def test_keys_tell_contents_apart() -> None:
    keys = {
        cache.content_key(*parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""))
    }
    assert len(keys) == 4


def test_the_folder_without_xdg(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache.cache_folder() == tmp_path / "home" / ".cache" / "ciuic"
