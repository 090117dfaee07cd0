"""A bitstream for a Zynq-7000 without the vendor's tools: nextpnr-xilinx and Project X-Ray.

Yosys ─► nextpnr-xilinx ─► fasm2frames ─► xc7frames2bit, and the `.hwh` beside the bitstream. The
programs are not on PyPI; openXC7 has them (https://github.com/openXC7/toolchain-installer).
"""

import re
import shutil
from dataclasses import replace
from pathlib import Path

from ciuic.abi import ADDRESS_MAPS
from ciuic.errors import DeviceError, ToolMissing, UsageError

from ..sources import build_hash
from . import processes, tools
from .boards import Board
from .flow import Build, Clock, Report, name_bitstream, synthesize
from .hwh import hwh_text
from .zynq import PROCESSING_SYSTEMS

__all__ = ["Databases", "build", "check_board", "databases", "timing"]

TOP = "ciuic_top"
FAMILY = "zynq7"  # folder of Project X-Ray's database
PROGRAMS = ("nextpnr-xilinx", "fasm2frames", "xc7frames2bit")
STEPS = 5

Databases = tuple[Path, Path]


def check_board(board: Board) -> None:
    """Refuse boards that this flow is not for.

    Raises
    ------
    UsageError
        If the board has no Zynq-7000.
    """
    addresses = ADDRESS_MAPS.get(board.name)
    if addresses is None or addresses.family != "zynq-7000":
        known = [name for name, one in ADDRESS_MAPS.items() if one.family == "zynq-7000"]
        raise UsageError(f"flow openxc7 is for {', '.join(known)}, not {board.name!r}")


def databases(board: Board, chipdb: Path | None, xray: Path | None) -> Databases:
    """Return the files of the part that the programs read, before any of them is run.

    Parameters
    ----------
    chipdb
        The part's description for nextpnr-xilinx, as its ``bbaexport`` and ``bbasm`` make it.
    xray
        Folder of Project X-Ray's database; the part is in ``zynq7/PART``.

    Raises
    ------
    ToolMissing
        If a program is not on the PATH.
    UsageError
        If a file is not named or not there.
    """
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise ToolMissing(
            f"{', '.join(missing)} on the PATH",
            needed_for="ciuic build --flow openxc7",
            install="openXC7's installer, https://github.com/openXC7/toolchain-installer",
        )
    if chipdb is None or not chipdb.is_file():
        raise UsageError(f"--chipdb must be nextpnr-xilinx' file of {board.part}, not {chipdb}")
    if xray is None or not (xray / FAMILY / board.part / "part.yaml").is_file():
        raise UsageError(
            f"--prjxray-db must be a folder with {FAMILY}/{board.part}/part.yaml, not {xray}"
        )
    return chipdb.resolve(), xray.resolve() / FAMILY


def build(
    board: Board,
    folder: Path,
    *,
    files: Databases | None,
    clock_hz: float | None = None,
    seed: int = 1,
    report: Report = lambda what, done, total: None,
) -> Build:
    """Build the overlay with the processing system: a bitstream and its handoff file in a folder.

    Its clock is the configuration's, or the fastest below it that is in time.

    Parameters
    ----------
    folder
        Where netlists, logs and results go; made if absent.
    files
        See `databases`; None to synthesize only.
    clock_hz
        Wanted clock in Hz; the configuration's if None.
    seed
        Of the placement.
    report
        Called after each step.

    Raises
    ------
    UsageError
        If the board is not for this flow.
    DeviceError
        If a program failed.
    """
    from amaranth.back import rtlil

    from ..zynq.system import Zynq7Top

    check_board(board)
    folder.mkdir(parents=True, exist_ok=True)
    steps = STEPS if files else 2
    gateware = build_hash()  # the sources may change while tools run
    report(board.name, 0, steps)
    design = Zynq7Top(board.config, ADDRESS_MAPS[board.name])
    text = rtlil.convert(design, name=TOP, emit_src=False, ports=[])
    (folder / "overlay.il").write_text(text)
    report(board.name, 1, steps)
    uses = synthesize(board, folder, TOP)
    report(board.name, 2, steps)
    clock = bitstream = None
    if files:
        wanted = clock_hz or board.config.clock_hz
        clock = _route(folder, files[0], wanted, seed)
        report(board.name, 3, steps)
        database, part = files[1], board.part
        names = ["--db-root", str(database), "--part", part]
        processes.run(["fasm2frames", *names, "overlay.fasm", "overlay.frames"], folder=folder)
        report(board.name, 4, steps)
        description = ["--part_file", str(database / part / "part.yaml"), "--part_name", part]
        output = ["--frm_file", "overlay.frames", "--output_file", "overlay.bit"]
        processes.run(["xc7frames2bit", *description, *output], folder=folder)
        config = replace(board.config, clock_hz=min(board.config.clock_hz, clock.hz))
        fclk = PROCESSING_SYSTEMS["zynq-7000"].pl_clock(config.clock_hz)
        handoff = hwh_text(board, config)
        bitstream = name_bitstream(folder / "overlay.bit", board, fclk.hz, handoff)
        report(board.name, 5, steps)
    return Build(
        board=board.name,
        config=board.config.name,
        part=board.part,
        build_hash=gateware,
        tools=tools.versions(tools.YOSYS) | (_versions() if files else {}),
        uses=uses,
        clock=clock,
        bitstream=bitstream,
    )


def _versions() -> dict[str, str]:
    said = processes.run(["nextpnr-xilinx", "--version"], folder=Path.cwd())
    return {"nextpnr-xilinx": said.strip().removeprefix("nextpnr-xilinx -- ")}


def _route(folder: Path, chipdb: Path, wanted_hz: float, seed: int) -> Clock:
    options = [
        *("--chipdb", str(chipdb), "--json", "overlay.json", "--fasm", "overlay.fasm"),
        *("--freq", f"{wanted_hz / 1e6:.3f}", "--timing-allow-fail", "--seed", str(seed)),
    ]
    log = processes.run(["nextpnr-xilinx", *options], folder=folder, log="nextpnr.log")
    return timing(log, wanted_hz)


def timing(log: str, wanted_hz: float) -> Clock:
    """Return the timing that nextpnr-xilinx reported last: that after routing.

    Raises
    ------
    DeviceError
        If it reported none.
    """
    found = re.findall(r"Max frequency for clock\s+'(.+)': ([\d.]+) MHz", log)
    _, _, path = log.rpartition("Critical path report for clock")
    path = path.partition("Critical path report for cross-domain")[0]
    cells = re.findall(r"(?:Source|Sink) (\S+)", path)
    if not found or not cells:
        raise DeviceError("nextpnr-xilinx reported no timing; see nextpnr.log")
    name = found[-1][0]
    hz = float(found[-1][1]) * 1e6
    if f"'{name}'" not in path:
        raise DeviceError(f"nextpnr-xilinx reported no critical path of {name}; see nextpnr.log")
    return Clock(hz, wanted_hz, cells[0], cells[-1])
