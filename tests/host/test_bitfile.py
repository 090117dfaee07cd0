"""Headers of bitstreams."""

from __future__ import annotations

from pathlib import Path

import pytest
from ciuic_host.bitfile import Bitfile

from ciuic.errors import OverlayMismatch, UsageError

BITFILE = Bitfile(
    design="ciuic;UserID=0XFFFFFFFF;Version=2024.1",
    part="7z020clg400",
    date="2024/01/02",
    time="03:04:05",
    data=bytes(range(16)),
)
# The first bytes of every .bit that Vivado writes.
BEGINNING = bytes.fromhex("0009 0ff00ff00ff00ff000 0001 61")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "x.bit"
    path.write_bytes(BITFILE.pack())
    assert path.read_bytes().startswith(BEGINNING)
    assert Bitfile.read(path) == BITFILE


def test_processors_load_words_with_their_bytes_reversed() -> None:
    assert BITFILE.binary()[:8] == bytes([3, 2, 1, 0, 7, 6, 5, 4])


@pytest.mark.parametrize("length", [0, 5, 13, 40, 60, len(BITFILE.pack()) - 1])
def test_a_file_that_was_cut_off_is_an_error(tmp_path: Path, length: int) -> None:
    path = tmp_path / "x.bit"
    path.write_bytes(BITFILE.pack()[:length])
    with pytest.raises(OverlayMismatch, match=r"x\.bit must be a whole \.bit file, not something"):
        Bitfile.read(path)


def test_a_file_of_another_kind_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.bit"
    path.write_bytes(b"\x7fELF" + bytes(1000))
    with pytest.raises(OverlayMismatch):
        Bitfile.read(path)


def test_a_file_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"must be a file that can be read"):
        Bitfile.read(tmp_path / "x.bit")
