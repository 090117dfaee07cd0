"""`python -m ciuic_hw.build.vivado --board NAME -o DIR`: what `hw/boards/NAME/build.tcl` reads.

Writes ``constants.tcl``, which holds every address, name and number of the block design, and
``overlay.v``, the gateware that is packaged as an IP. Both follow from `ciuic.abi`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ciuic.abi import ADDRESS_MAPS, OverlayConfig, Region, registers
from ciuic.abi.boards import CONTROLLER, INSTANCE, VLNV

from .boards import BOARDS, Board
from .hwh import ACCESS, INTERCONNECT, RESET
from .zynq import check_fits

__all__ = ["RELEASE", "TOP", "constants", "constants_text", "verilog_text"]

RELEASE = "2024.1"  # of Vivado, for which the scripts are written
TOP = "ciuic_overlay"

Tcl = str | int | Sequence["Tcl"] | Mapping[str, "Tcl"]


def constants(board: Board, config: OverlayConfig) -> dict[str, Tcl]:
    """Return the constants of a board's scripts: name -> value, lists and dictionaries within.

    Raises
    ------
    UsageError
        If the overlay cannot be connected to the board's processing system.
    """
    addresses = ADDRESS_MAPS[board.name]
    system = check_fits(addresses, config)
    ports = [
        {
            "overlay": f"memory_{port}" if port else "memory",
            "interface": system.memory[port],
            "clock": system.memory_clock.format(port=port),
            "segments": [
                [name, *_region(region)]
                for name, region in zip(system.memory_segments(port), addresses.memory, strict=True)
            ],
            "unused": system.unused_segments(port),
        }
        for port in range(config.ports)
    ]
    return {
        "release": RELEASE,
        "part": board.part,
        "top": TOP,
        "vlnv": VLNV,
        "instance": INSTANCE,
        "controller": CONTROLLER,
        "interconnect": INTERCONNECT,
        "reset": RESET,
        "ps_vlnv": system.vlnv,
        "ps": system.instance,
        "ps_config": {f"CONFIG.{key}": value for key, value in system.parameters(config).items()},
        "ps_control": system.control,
        "ps_control_clock": system.control_clock,
        "ps_clock": system.clock,
        "ps_reset": system.reset,
        "ps_interrupt": system.interrupt,
        "clock_hz": round(system.pl_clock(config.clock_hz).hz),
        "control": _region(addresses.control),
        "interrupt_controller": _region(addresses.interrupt_controller),
        "memory_ports": ports,
        "memory_protocol": "AXI3" if system.axi3 else "AXI4",
        "bus_bits": config.bus_bytes * 8,
        "address_bits": config.address_bits,
        "registers": [
            [
                register.name,
                f"{register.offset:#x}",
                ACCESS[register.access],
                [[bits.name, bits.low, bits.width] for bits in register.fields],
            ]
            for register in registers.REGISTERS
        ],
    }


def _region(region: Region) -> list[Tcl]:
    return [f"{region.base:#x}", f"{region.span:#x}"]


def constants_text(board: Board, config: OverlayConfig) -> str:
    """Return ``constants.tcl``."""
    lines = [f"# Written by `python -m ciuic_hw.build.vivado --board {board.name}`; do not edit."]
    lines += [f"set {name} {_word(value)}" for name, value in constants(board, config).items()]
    return "\n".join(lines) + "\n"


def _word(value: Tcl) -> str:
    """Return a value as one word of Tcl."""
    if isinstance(value, Mapping):
        value = [item for pair in value.items() for item in pair]
    if isinstance(value, str | int):
        text = str(value)
        return text if text and not set(text) & set(' {}[]$;"\\') else f"{{{text}}}"
    return "{" + " ".join(map(_word, value)) + "}"


def verilog_text(board: Board, config: OverlayConfig) -> str:
    """Return the Verilog of the IP: the overlay, on a Zynq-7000 with AXI3 memory ports."""
    from amaranth.back import verilog

    from ..overlay import Overlay
    from ..zynq.system import Zynq7Overlay

    system = check_fits(ADDRESS_MAPS[board.name], config)
    component = Zynq7Overlay(config) if system.axi3 else Overlay(config)
    return verilog.convert(component, name=TOP, emit_src=False, strip_internal_attrs=True)


def main(arguments: list[str] | None = None) -> int:
    """Write constants and gateware of a board into a folder."""
    parser = argparse.ArgumentParser(prog="python -m ciuic_hw.build.vivado", description=__doc__)
    parser.add_argument("--board", choices=sorted(ADDRESS_MAPS), required=True)
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write to")
    options = parser.parse_args(arguments)
    board = BOARDS[options.board]
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "constants.tcl").write_text(constants_text(board, board.config))
    (options.output / "overlay.v").write_text(verilog_text(board, board.config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
