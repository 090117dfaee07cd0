"""What a bitstream holds, as its header and its handoff file say, against board and package.

Checked before a board is programmed: a bitstream of another part may stop the board for good.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ciuic.abi import ADDRESS_MAPS, registers
from ciuic.abi.boards import VLNV, Family
from ciuic.errors import OverlayMismatch

from .bitfile import Bitfile

FAMILIES: dict[str, Family] = {"armv7l": "zynq-7000", "aarch64": "zynq-ultrascale+"}
SYSTEMS: dict[str, Family] = {
    "processing_system7": "zynq-7000",
    "zynq_ultra_ps_e": "zynq-ultrascale+",
}


def metadata(bitstream: Path) -> Any:
    """Return what `pynq` knows of a ``.bit``, from the handoff file beside it.

    Read anew each time: `pynq` keeps the last one in a file of its own folder, which all programs
    of a machine share, and finds it again by a hash of the bitstream alone.
    """
    from pynqmetadata.frontends import Metadata
    from pynqmetadata.views.runtime import RuntimeMetadataParser

    parser = RuntimeMetadataParser(Metadata(input=bitstream.with_suffix(".hwh")))
    parser.refresh_hierarchy_dict()
    parser.bin_data = Bitfile.read(bitstream).binary()
    parser.xclbin_data = parser.dtbo_data = None
    return parser


@dataclass(frozen=True, kw_only=True)
class Design:
    """Where the overlay is in a design.

    Parameters
    ----------
    base, span
        Of its registers, in bytes.
    interrupt
        Its interrupt pin.
    clock_mhz
        The clock that it was built for.
    """

    base: int
    span: int
    interrupt: str
    clock_mhz: float


def check_design(name: str, bitstream: Path, overlay: Any, device: Any) -> Design:
    """Return where the overlay is in a design.

    Parameters
    ----------
    name
        The device's name, for errors.
    bitstream
        The ``.bit``.
    overlay
        The `pynq.Overlay` of it, which is not downloaded.
    device
        The `pynq` device that it is meant for.

    Raises
    ------
    OverlayMismatch
        If the design is for another board, or holds no overlay that this package knows.
    """
    what = f"{bitstream.name} for {name}"
    _check_board(what, Bitfile.read(bitstream).part, overlay, device)
    instance, block = _find_overlay(what, overlay.ip_dict)
    _check_registers(what, block.get("registers") or {})
    return Design(
        base=int(block["phys_addr"]),
        span=int(block["addr_range"]),
        interrupt=f"{instance}/interrupt",
        clock_mhz=_clock_mhz(overlay),
    )


def _check_board(what: str, part: str, overlay: Any, device: Any) -> None:
    expected = FAMILIES.get(device.arch, device.arch)
    kinds = [str(block["type"]).split(":")[2:3] for block in overlay.ip_dict.values()]
    found = next((SYSTEMS[kind[0]] for kind in kinds if kind and kind[0] in SYSTEMS), None)
    if found != expected:
        raise OverlayMismatch(f"processing system ({what})", expected=expected, found=found)
    board = ADDRESS_MAPS.get(str(device.name).lower())
    if board is not None and board.die not in part:
        raise OverlayMismatch(f"part ({what})", expected=board.die, found=part)


def _find_overlay(what: str, blocks: dict[str, Any]) -> tuple[str, Any]:
    kind, _, version = VLNV.rpartition(":")
    for instance, block in blocks.items():
        found_kind, _, found = str(block["type"]).rpartition(":")
        if found_kind != kind:
            continue
        if found != version:
            raise OverlayMismatch(f"ABI version ({what})", expected=version, found=found)
        return instance, block
    raise OverlayMismatch(f"design ({what})", expected=f"one with {kind}", found=sorted(blocks))


def _check_registers(what: str, found: dict[str, Any]) -> None:
    """Compare the registers that the handoff file names, if it names any."""
    for register in registers.REGISTERS:
        offset = found.get(register.name, {}).get("address_offset", register.offset)
        if found and (register.name not in found or offset != register.offset):
            raise OverlayMismatch(
                f"register {register.name} ({what})",
                expected=f"at {register.offset:#x}",
                found=f"at {offset:#x}" if register.name in found else "missing",
            )


def _clock_mhz(overlay: Any) -> float:
    """Return the clock that a design was built for, from what its processing system gives."""
    system = overlay.ip_dict[overlay.parser.ps_name]["parameters"]
    for key in ("PCW_ACT_FPGA0_PERIPHERAL_FREQMHZ", "PSU__CRL_APB__PL0_REF_CTRL__ACT_FREQMHZ"):
        if key in system:
            return float(system[key])
    raise OverlayMismatch("clock", expected="in the handoff file", found="missing")
