"""The manifest of bitstreams: written by builds, listed and checked by `ciuic bitstreams`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from ciuic import cli
from ciuic.abi import registers
from ciuic.errors import UsageError
from ciuic.overlays import FOLDER, MANIFEST, Entry, read_manifest, write_manifest

pytest.importorskip("amaranth", reason="needs amaranth: pip install 'ciuic[build]'")

from ciuic_hw.build.flow import Bitstream, Build, Use
from ciuic_hw.build.publish import publish
from ciuic_hw.sources import build_hash

OLD = 0xABCD
ABI = registers.ABI_VERSION_VALUE


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Build]:
    """Return what makes a build of kv260, with a bitstream of the contents given."""

    def make(contents: bytes | None = None, **changes: object) -> Build:
        bitstream = None
        if contents is not None:
            path = tmp_path / f"kv260-kv260-{contents.hex()}.bit"
            path.write_bytes(contents)
            path.with_suffix(".hwh").write_bytes(contents * 2)
            bitstream = Bitstream(path, 199.998e6)
        use = (Use("LUT", 1, 2),)
        tools = {'name "quoted"': "1.0\n"}
        made = Build("kv260", "kv260", "xck26", build_hash(), tools, use, None, bitstream)
        return replace(made, **changes)  # type: ignore[arg-type]

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "kept").mkdir()
    return tmp_path / "kept"


def listed(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, list]:
    status = cli.main(["bitstreams", "--folder", str(folder), "--json", *options])
    return status, json.loads(capsys.readouterr().out)["builds"]


def test_a_manifest_is_read_as_it_was_written(folder: Path) -> None:
    entries = [
        Entry(
            board=board,
            configuration='a "name" = [x]',
            part="p",
            abi_version=7,
            build_hash=0x00ABCDEF,
            tools={"tool.with.dots": "1\t2", "Yosys": "ö"},
            report="r.json",
            bitstream=bitstream,
            clock_hz=clock,
            files={"r.json": "0" * 64, **({bitstream: "1" * 64} if bitstream else {})},
        )
        for board, bitstream, clock in (("a", "x.bit", 600e6 / 7), ("b", None, None))
    ]
    write_manifest(folder, reversed(entries))
    assert read_manifest(folder) == entries


def test_builds_are_listed_and_verified(
    build: Callable[..., Build], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(folder, build(b"one"), {})
    publish(folder, build(config="tiny"), {})
    status, (first, second) = listed(folder, capsys, "--verify")
    assert status == 0
    assert (first["state"], first["older"], first["other_abi"]) == ("bitstream", False, False)
    assert first["clock_hz"] == 199.998e6
    assert (second["state"], second["bitstream"]) == ("report only", None)
    assert {path.name for path in folder.iterdir()} == {
        *("manifest.toml", "kv260"),
        *("kv260-kv260-6f6e65.bit", "kv260-kv260-6f6e65.hwh"),
    }
    assert cli.main(["bitstreams", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "report only" in shown
    assert "older" not in shown


def test_a_new_build_takes_the_place_of_the_old_one(
    build: Callable[..., Build], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(folder, build(b"one"), {})
    publish(folder, build(b"two"), {"figure": 2})
    status, (row,) = listed(folder, capsys, "--verify")
    assert (status, row["bitstream"]) == (0, "kv260-kv260-74776f.bit")
    assert len(list(folder.glob("*.bit"))) == len(list(folder.glob("*.hwh"))) == 1
    assert json.loads((folder / row["report"]).read_text()) == {"figure": 2}


def test_older_gateware_is_told(
    build: Callable[..., Build], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish(folder, build(build_hash=OLD), {})
    status, (row,) = listed(folder, capsys, "--verify")
    assert (status, row["older"], row["build_hash"]) == (0, True, "0000abcd")
    assert cli.main(["bitstreams", "--folder", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert "0000abcd (older)" in shown
    assert "kv260: older than this gateware; `ciuic build` makes it anew" in shown


@pytest.mark.parametrize(
    ("suffix", "contents", "message"),
    [
        (".bit", b"onf", "sha256 of kv260-kv260-6f6e65.bit must be "),
        (".hwh", b"", "sha256 of kv260-kv260-6f6e65.hwh must be "),
        (".bit", None, "kv260-kv260-6f6e65.bit is not there"),
        (".json", b"{}", "sha256 of kv260/report.json must be "),
    ],
)
def test_a_file_that_differs_is_told_when_verified(
    suffix: str,
    contents: bytes | None,
    message: str,
    build: Callable[..., Build],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    entry = publish(folder, build(b"one"), {"figure": 1})
    (name,) = (name for name in entry.files if name.endswith(suffix))
    if contents is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(contents)
    assert listed(folder, capsys)[0] == 0
    status, (row,) = listed(folder, capsys, "--verify")
    assert status == 1
    assert [problem[: len(message)] for problem in row["problems"]] == [message]
    assert cli.main(["bitstreams", "--folder", str(folder), "--verify"]) == 1
    assert f"kv260, kv260: {message}" in capsys.readouterr().out


def test_another_abi_is_told(
    build: Callable[..., Build], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = publish(folder, build(b"one"), {})
    write_manifest(folder, [replace(entry, abi_version=ABI + 1)])
    status, (row,) = listed(folder, capsys)
    assert (status, row["other_abi"]) == (0, True)
    status, (row,) = listed(folder, capsys, "--verify")
    assert (status, row["problems"]) == (1, [f"ABI version must be {ABI}, not {ABI + 1}"])
    cli.main(["bitstreams", "--folder", str(folder)])
    assert f"{ABI + 1} (another)" in capsys.readouterr().out


ROW = """
[[build]]
board = "b"
configuration = "c"
part = "p"
report = "r.json"
abi_version = 1
build_hash = "0123abcd"
[build.tools]
[build.files]
"r.json" = "00"
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[build", "must be TOML"),
        ("build = 3", "a build must have the fields of one"),
        (ROW + ROW, "one build of a board and a configuration"),
        (ROW.replace('part = "p"', ""), "part"),
        (ROW.replace('"0123abcd"', '"xyz"'), "xyz"),
        (ROW.replace("abi_version = 1", 'abi_version = "1"'), "abi_version must be int, not '1'"),
        (ROW.replace('part = "p"', 'part = "p"\nother = 1'), "other"),
        (ROW.replace('report = "r.json"', 'report = "s.json"'), "files must hold 's.json'"),
        (ROW + '"../x" = "00"', "files must be below the manifest, not '../x'"),
        (ROW + '"/x" = "00"', "files must be below the manifest, not '/x'"),
    ],
)
def test_a_broken_manifest_is_an_error(
    text: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / MANIFEST).write_text(ROW)
    assert len(read_manifest(folder)) == 1
    (folder / MANIFEST).write_text(text)
    assert cli.main(["bitstreams", "--folder", str(folder)]) == 2
    error = capsys.readouterr().err
    assert str(folder / MANIFEST) in error
    assert message in error


def test_a_folder_without_a_manifest_is_an_error(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"manifest\.toml must be a file that can be read"):
        read_manifest(folder)


def test_the_files_that_come_with_ciuic_are_as_they_were_built() -> None:
    entries = read_manifest(FOLDER)
    assert [problem for entry in entries for problem in entry.problems(FOLDER)] == []
    here = {path.name for kind in ("*.bit", "*.hwh") for path in FOLDER.glob(kind)}
    assert here <= {name for entry in entries for name in entry.files}
