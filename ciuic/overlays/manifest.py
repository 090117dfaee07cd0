"""The list of what was built for boards, which ``ciuic build --publish`` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from ciuic.abi import registers
from ciuic.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MANIFEST = "manifest.toml"
HEADER = (
    "# Written by `ciuic build --publish`, never by hand; `ciuic bitstreams` shows and checks it.\n"
)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One build.

    Parameters
    ----------
    board, configuration, part
        What was built, and for what; there is one entry of a board and a configuration.
    abi_version
        Of `ciuic.abi.registers`.
    build_hash
        Identity of the gateware, as in the overlay's registers.
    tools
        Tool -> version.
    report
        Path of the report below the manifest's folder.
    bitstream
        Path of the bitstream below it; None if none was made.
    clock_hz
        Clock of the bitstream in Hz.
    files
        Path of the report, the bitstream and its handoff file -> SHA-256 in hexadecimal.
    """

    board: str
    configuration: str
    part: str
    abi_version: int
    build_hash: int
    tools: Mapping[str, str]
    report: str
    files: Mapping[str, str]
    bitstream: str | None = None
    clock_hz: float | None = None

    @property
    def key(self) -> tuple[str, str]:
        """What there is one entry of."""
        return self.board, self.configuration

    @property
    def has_this_abi(self) -> bool:
        """Whether this package drives it."""
        return self.abi_version == registers.ABI_VERSION_VALUE

    def problems(self, folder: Path) -> list[str]:
        """Return why a bitstream cannot be used, and which files differ from the manifest's."""
        found = []
        if self.bitstream is not None and not self.has_this_abi:
            expected = registers.ABI_VERSION_VALUE
            found.append(f"ABI version must be {expected}, not {self.abi_version}")
        for name, sum_ in self.files.items():
            path = folder / name
            if not path.is_file():
                found.append(f"{name} is not there")
            elif (digest := sha256_of(path)) != sum_:
                found.append(f"sha256 of {name} must be {sum_}, not {digest}")
        return found


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    return sha256(path.read_bytes()).hexdigest()


def read_manifest(folder: Path) -> list[Entry]:
    """Return the entries of a folder's manifest, sorted.

    Raises
    ------
    UsageError
        If there is none, or it cannot be read.
    """
    path = folder / MANIFEST
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")).get("build", [])
        entries = [_entry(table) for table in tables]
    except OSError as error:
        raise UsageError(f"{path} must be a file that can be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError) as error:
        raise UsageError(f"{path} must be TOML: {error}") from None
    except (TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path}: a build must have the fields of one: {error}") from None
    if len({entry.key for entry in entries}) != len(entries):
        raise UsageError(f"{path}: there must be one build of a board and a configuration")
    return sorted(entries, key=lambda entry: entry.key)


_TYPES: dict[str, type] = {
    **dict.fromkeys(("board", "configuration", "part", "report", "bitstream"), str),
    **dict.fromkeys(("tools", "files"), dict),
    "abi_version": int,
    "clock_hz": float,
}


def _entry(table: dict[str, Any]) -> Entry:
    values = {**table, "build_hash": int(table["build_hash"], 16)}
    for name, kind in _TYPES.items():
        if name in values and not isinstance(values[name], kind):
            raise TypeError(f"{name} must be {kind.__name__}, not {values[name]!r}")
    for name in values["files"]:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"files must be below the manifest, not {name!r}")
    entry = Entry(**values)
    for name in filter(None, (entry.report, entry.bitstream)):
        if name not in entry.files:
            raise ValueError(f"files must hold {name!r}")
    return entry


def write_manifest(folder: Path, entries: Iterable[Entry]) -> None:
    """Write the manifest of a folder."""
    parts = [HEADER]
    for entry in sorted(entries, key=lambda entry: entry.key):
        lines = ["[[build]]"]
        for name in ("board", "configuration", "part", "report", "bitstream"):
            value = getattr(entry, name)
            lines += [f"{name} = {_text(value)}"] if value is not None else []
        lines += [f"abi_version = {entry.abi_version}", f'build_hash = "{entry.build_hash:08x}"']
        lines += [f"clock_hz = {entry.clock_hz!r}"] if entry.clock_hz is not None else []
        for name in ("tools", "files"):
            lines.append(f"[build.{name}]")
            lines += [f"{_text(key)} = {_text(v)}" for key, v in getattr(entry, name).items()]
        parts.append("\n".join(lines) + "\n")
    (folder / MANIFEST).write_text("\n".join(parts), encoding="utf-8")


def _text(value: str) -> str:
    return json.dumps(value)  # which is a basic string of TOML too
