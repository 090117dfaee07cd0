"""Watch how long files grow: print the ten longest, fail if one has more than 500 lines.

python tools/file_sizes.py [ROOT]
"""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT_LINES = 500
FOLDERS = ("ciuic", "host", "hw", "sim", "tests", "tools")
SUFFIXES = {".py", ".cpp", ".h", ".cl", ".c", ".tcl", ".sv", ".v"}
BUILT = {"__pycache__", "sim_build"}
SHOWN = 10


def source_files(root: Path) -> list[Path]:
    """Return the hand-written source files below a checkout."""
    return [
        path
        for folder in FOLDERS
        for path in (root / folder).rglob("*")
        if path.suffix in SUFFIXES and not BUILT & set(path.parts)
    ]


def main(root: Path) -> int:
    """Print the longest files and return 1 if one is over the limit."""
    sizes = {
        path: len(path.read_text(encoding="utf-8").splitlines()) for path in source_files(root)
    }
    longest = sorted(sizes.items(), key=lambda item: item[1], reverse=True)
    for path, lines in longest[:SHOWN]:
        print(f"{lines:5}  {path.relative_to(root)}")
    over = [path for path, lines in longest if lines > LIMIT_LINES]
    for path in over:
        print(f"{path.relative_to(root)}: at most {LIMIT_LINES} lines, not {sizes[path]}")
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()))
