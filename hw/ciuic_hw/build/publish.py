"""Keep what a build made in a folder such as ``bitstreams/``, with its row in the manifest."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ciuic.abi import registers
from ciuic.errors import UsageError
from ciuic.overlays import MANIFEST, Entry, read_manifest, sha256_of, write_manifest

from .flow import Build

__all__ = ["check_folder", "publish"]

REPORT = "report.json"


def check_folder(folder: Path) -> None:
    """Refuse a folder that could not be written after a long build.

    Raises
    ------
    UsageError
        If there is none, or its manifest cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"--publish must be a folder that exists, not {str(folder)!r}")
    if (folder / MANIFEST).exists():
        read_manifest(folder)


def publish(folder: Path, found: Build, report: object) -> Entry:
    """Write the report, the bitstream and the manifest; return what the manifest says.

    The bitstream that the board and the configuration had before is removed.

    Parameters
    ----------
    folder
        Where to, see `check_folder`. The report is ``BOARD/report.json`` in it.
    found
        What was built.
    report
        The figures, as JSON takes them.
    """
    path = folder / found.board / REPORT
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n")
    kept = [path]
    if found.bitstream is not None:
        made = found.bitstream.path
        for one in (made, made.with_suffix(".hwh")):
            if one.exists():
                kept.append(folder / one.name)
                if not one.parent.samefile(folder):
                    shutil.copy(one, folder)
    entry = Entry(
        board=found.board,
        configuration=found.config,
        part=found.part,
        abi_version=registers.ABI_VERSION_VALUE,
        build_hash=found.build_hash,
        tools=found.tools,
        report=path.relative_to(folder).as_posix(),
        bitstream=found.bitstream and found.bitstream.path.name,
        clock_hz=found.bitstream and found.bitstream.clock_hz,
        files={one.relative_to(folder).as_posix(): sha256_of(one) for one in kept},
    )
    entries = read_manifest(folder) if (folder / MANIFEST).exists() else []
    for old in (one for one in entries if one.key == entry.key):
        for name in old.files.keys() - entry.files.keys():
            (folder / name).unlink(missing_ok=True)
    write_manifest(folder, [entry, *(one for one in entries if one.key != entry.key)])
    return entry
