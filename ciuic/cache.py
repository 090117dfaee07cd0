"""Where Ciuic keeps what it downloaded or built on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder of Ciuic's caches: $XDG_CACHE_HOME/ciuic, else ~/.cache/ciuic."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG Base Directory Specification says that relative paths are to be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".cache"
    return root / "ciuic"
