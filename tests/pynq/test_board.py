"""The board's own name, the bitstream that is for it, and what PYNQ's tools find of Ciuic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ciuic_host
import pytest

pytest.importorskip("pynq", reason="needs pynq: pip install 'ciuic[pynq]'")

import pynq
from ciuic_host import Overlay, pynq_board
from ciuic_host.bitfile import Bitfile
from ciuic_host.pynq import load_overlay
from ciuic_hw.build.flow import Bitstream, Build
from ciuic_hw.build.publish import publish
from ciuic_hw.sources import build_hash
from ciuic_sim.board import Board
from ciuic_sim.pynq_device import SimulatedDevice
from ciuic_sim.pynq_server import BoardServer

from ciuic import cli
from ciuic.errors import DeviceNotFound, OverlayMismatch
from ciuic.overlays import MANIFEST, Entry

from .conftest import Bench

pytestmark = [pytest.mark.pynq, pytest.mark.rtl]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that takes the place of Ciuic's bitstreams; there is none of PYNQ's."""
    found = tmp_path / "bitstreams"
    found.mkdir()
    monkeypatch.setattr(pynq_board, "FOLDER", found)
    monkeypatch.setattr(pynq_board, "_installed", lambda: [tmp_path / "overlays"])
    monkeypatch.setattr(pynq_board, "DEVICE_TREE", tmp_path / "pynq_board")
    monkeypatch.delenv("BOARD", raising=False)
    return found


def build(bench: Bench, folder: Path, config: str = "tiny", *, report_only: bool = False) -> Entry:
    """Publish a bitstream of a simulated board as `ciuic build` does."""
    made = None if report_only else Bitstream(bench.bitstream(config=config), 100e6)
    part = "xc7z020clg400-1"
    return publish(
        folder, Build("pynq-z2", config, part, build_hash(), {}, (), None, made), {"figures": []}
    )


@pytest.fixture
def here(
    local: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    """This machine as a board: what `pynq` probes, its name, its free memory."""
    device = SimulatedDevice(local.board)
    device.name = "xrt_shell"  # as on boards, where XRT names the device
    monkeypatch.setattr(pynq.Device, "_devices", [device], raising=False)
    (tmp_path / "meminfo").write_text("CmaFree: 16384 kB\n")
    monkeypatch.setattr("ciuic_host.pynq.MEMINFO", tmp_path / "meminfo")
    monkeypatch.setenv("BOARD", "Pynq-Z2")
    yield local
    assert local.board.used == 0


def test_the_bitstream_of_this_board_is_found(
    here: Bench, folder: Path, check: Callable[[Overlay], None]
) -> None:
    build(here, folder, "sim", report_only=True)
    entry = build(here, folder)
    with ciuic_host.open("fpga:pynq") as overlay:
        check(overlay)
        loaded = overlay._transport._overlay.bitfile_name  # type: ignore[attr-defined]
        assert loaded == str(folder / str(entry.bitstream))


def test_the_bitstream_of_a_board_elsewhere_is_found(
    local: Bench, folder: Path, check: Callable[[Overlay], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BOARD", "KV260")  # this machine's, which is another
    with BoardServer(local.board) as server:
        uri = f"fpga:pynq@{server.address}"
        with pytest.raises(DeviceNotFound, match=r"board Pynq-Z2 \(the name of pynq's device\)"):
            ciuic_host.open(uri)
        build(local, folder)
        with ciuic_host.open(uri) as overlay:
            check(overlay)
    assert local.board.used == 0


@pytest.mark.parametrize("source", ["variable", "device tree", "device"])
def test_a_board_has_its_name_from_the_first_that_knows_it(
    source: str, here: Bench, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (device,) = pynq.Device.devices
    if source != "variable":
        monkeypatch.delenv("BOARD")
    if source != "device":
        name = "KV260" if source == "variable" else "Pynq-Z2"
        (tmp_path / "pynq_board").write_text(f"{name}\0")
    else:
        device.name = "Pynq-Z2"
    assert pynq_board.board_of(device)[0] == "Pynq-Z2"
    assert pynq_board.is_board_here() == (source != "device")
    build(here, folder)
    overlay, _ = load_overlay("board", None, device)
    assert Path(overlay.bitfile_name).parent == folder


def test_what_was_looked_for_is_told(here: Bench, folder: Path, tmp_path: Path) -> None:
    installed = tmp_path / "overlays" / "ciuic" / "ciuic.bit"
    for listed in (f"{folder / MANIFEST} (not there)", "(lists tiny for pynq-z2, without a"):
        with pytest.raises(DeviceNotFound) as caught:
            ciuic_host.open("fpga:pynq")
        reason = caught.value.reason
        assert reason.startswith("there must be a bitstream for the board Pynq-Z2 ($BOARD); looked")
        assert listed in reason
        assert f"{installed} (not there)" in reason
        assert reason.endswith("name another one: bitstream=PATH")
        build(here, folder, report_only=True)


def test_an_overlay_among_pynqs_own_is_found(
    here: Bench, folder: Path, tmp_path: Path, check: Callable[[Overlay], None]
) -> None:
    installed = tmp_path / "overlays" / "ciuic"
    installed.mkdir(parents=True)
    made = here.bitstream()
    for suffix in (".bit", ".hwh"):
        made.with_suffix(suffix).rename(installed / f"ciuic{suffix}")
    with ciuic_host.open("fpga:pynq") as overlay:
        check(overlay)


def test_a_bitstream_that_was_changed_is_refused(here: Bench, folder: Path) -> None:
    entry = build(here, folder)
    (folder / str(entry.bitstream)).write_bytes(b"something else")
    with pytest.raises(OverlayMismatch, match=r"as it was built.*sha256 of ciuic-pynq-z2-tiny-"):
        ciuic_host.open("fpga:pynq")
    assert here.board.loaded is None


def test_a_bitstream_of_another_part_is_refused_where_xrt_names_the_device(here: Bench) -> None:
    path = here.bitstream()
    data = Bitfile.read(path).data
    path.write_bytes(Bitfile(design="x", part="7z010clg400", date="", time="", data=data).pack())
    with pytest.raises(OverlayMismatch, match=r"must be 7z020, not 7z010clg400$"):
        ciuic_host.open(f"fpga:pynq?bitstream={path}")
    assert here.board.loaded is None


def test_a_board_is_among_the_devices(
    here: Bench, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build(here, folder)
    monkeypatch.setattr("ciuic_host.device._can_simulate", lambda: False)  # that takes a while
    assert cli.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["devices"]
    (row,) = (row for row in found if row["uri"] == "fpga:pynq")
    assert (row["kind"], row["memory_bytes"]) == ("FPGA", 16 << 20)
    monkeypatch.setenv("BOARD", "nrf52840dk")
    assert cli.main(["devices", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["devices"]
    assert "fpga:pynq" not in {row["uri"] for row in found}


# --- entry points -----------------------------------------------------------------------------


def test_pynq_finds_a_bitstream_by_its_name(local: Bench, tmp_path: Path) -> None:
    """In a process of its own, as where to look is read once."""
    entry = build(local, tmp_path)
    program = (
        "import sys, pathlib, ciuic.overlays; ciuic.overlays.__path__.insert(0, sys.argv[1])\n"
        "from pynq.bitstream import Bitstream\n"
        "print(Bitstream(sys.argv[2], device=object()).bitfile_name)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, tmp_path, str(entry.bitstream)],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert done.stdout.strip() == str(tmp_path / str(entry.bitstream)), done.stderr


def test_pynq_knows_the_folder_of_bitstreams() -> None:
    from pynqutils.setup_utils import ExtensionsManager

    from ciuic.overlays import FOLDER

    manager = ExtensionsManager("pynq.overlays")
    paths = [Path(path) for path in manager.paths]
    assert FOLDER in paths
    assert (FOLDER / MANIFEST).is_file()


def test_notebooks_are_delivered(tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("pynq")
    command = [program, "get-notebooks", "ciuic", "--ignore-overlays", "--path", tmp_path]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    source = Path(__file__).parents[2] / "host" / "notebooks"
    books = {path.name: path.read_bytes() for path in source.glob("*.ipynb")}
    assert books
    assert {p.name: p.read_bytes() for p in (tmp_path / "ciuic").glob("*.ipynb")} == books


def test_a_kv260_is_known_by_its_device(folder: Path) -> None:
    with Board("kv260") as board, BoardServer(board) as server:
        with pytest.raises(DeviceNotFound, match=r"bitstream for the board KV260 "):
            ciuic_host.open(f"fpga:pynq@{server.address}")
