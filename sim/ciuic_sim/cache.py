"""Build products, found again by the content they were made from.

An entry is a folder. It is built beside its place and renamed into it, under a lock, so that an
interrupted build leaves nothing that looks finished and parallel processes build once.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from ciuic.cache import cache_folder


def content_key(*parts: str) -> str:
    """Return a short name for the parts, which keep their borders."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def entry(kind: str, key: str, build: Callable[[Path], None]) -> Path:
    """Return the folder of an entry; ``build(folder)`` fills it if it does not exist yet."""
    place = cache_folder() / kind / key
    if place.exists():
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    with _locked(place.with_suffix(".lock")):
        if not place.exists():
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=place.parent))
            try:
                build(draft)
                draft.rename(place)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return place


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
