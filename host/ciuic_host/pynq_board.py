"""Which PYNQ board this is, and which of the bitstreams here is for it.

A board is named by ``$BOARD``, as PYNQ's installer has it, by its device tree, or by the `pynq`
device, in this order; a board that is reached from elsewhere by its device alone. Names are those
of `ciuic.abi.ADDRESS_MAPS`, but for capitals. Bitstreams are those of Ciuic's manifest, then the
overlay ``ciuic`` among PYNQ's own.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from ciuic.abi import ADDRESS_MAPS
from ciuic.errors import DeviceNotFound, OverlayMismatch
from ciuic.overlays import FOLDER, MANIFEST, Entry, read_manifest

__all__ = ["board_of", "find_bitstream", "is_board_here"]

VARIABLE = "BOARD"
DEVICE_TREE = Path("/proc/device-tree/chosen/pynq_board")
INSTALLED = "ciuic/ciuic.bit"  # in the folder of PYNQ's overlays


def is_board_here() -> bool:
    """Return whether this machine is a board that Ciuic knows, with `pynq`."""
    found = _local_name()
    known = found is not None and found[0].lower() in ADDRESS_MAPS
    return known and importlib.util.find_spec("pynq") is not None


def board_of(device: Any) -> tuple[str, str]:
    """Return the name of a `pynq` device's board, and where it stands."""
    named = str(device.name), "the name of pynq's device"
    if is_remote(device):
        return named
    return _local_name() or named


def is_remote(device: Any) -> bool:
    """Return whether a `pynq` device is one that PYNQ.remote reaches."""
    return hasattr(device, "exists_file")


def find_bitstream(uri: str, device: Any) -> Path:
    """Return the bitstream for a `pynq` device's board.

    Parameters
    ----------
    uri
        The device's name, for errors.
    device
        The device.

    Raises
    ------
    DeviceNotFound
        If there is none; the message says what was looked for.
    OverlayMismatch
        If the manifest has one that was changed, or is of another ABI.
    """
    name, source = board_of(device)
    board = name.lower()
    looked = []
    manifest = FOLDER / MANIFEST
    if not manifest.is_file():
        looked.append(f"{manifest} (not there)")
    else:
        builds = [entry for entry in read_manifest(FOLDER) if entry.board == board]
        made = [entry for entry in builds if entry.bitstream is not None]
        if made:
            return _checked(manifest, min(made, key=lambda entry: entry.configuration != board))
        listed = ", ".join(entry.configuration for entry in builds) or "nothing"
        looked.append(f"{manifest} (lists {listed} for {board}, without a bitstream)")
    for folder in _installed():
        path = folder / INSTALLED
        if path.is_file():
            return path
        looked.append(f"{path} (not there)")
    raise DeviceNotFound(
        uri,
        f"there must be a bitstream for the board {name} ({source}); looked for "
        f"{', '.join(looked)}; name another one: bitstream=PATH",
    )


def _checked(manifest: Path, entry: Entry) -> Path:
    assert entry.bitstream is not None
    problems = entry.problems(manifest.parent)
    if problems:
        raise OverlayMismatch(
            f"bitstream of {entry.board} in {manifest}",
            expected="as it was built, and for this package",
            found="; ".join(problems),
        )
    return manifest.parent / entry.bitstream


def _local_name() -> tuple[str, str] | None:
    name = os.environ.get(VARIABLE)
    if name:
        return name, f"${VARIABLE}"
    try:
        return DEVICE_TREE.read_text(encoding="ascii").strip("\0\n"), str(DEVICE_TREE)
    except (OSError, UnicodeDecodeError):
        return None


def _installed() -> list[Path]:
    spec = importlib.util.find_spec("pynq.overlays")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []
