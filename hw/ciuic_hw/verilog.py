"""`python -m ciuic_hw.verilog --config NAME -o FILE`: the overlay as Verilog."""

import argparse
import sys
from pathlib import Path

from amaranth.back import rtlil, verilog

from ciuic.abi import CONFIGS, OverlayConfig

from .overlay import Overlay

__all__ = ["rtlil_text", "verilog_text"]

TOP = "ciuic_overlay"


def rtlil_text(config: OverlayConfig) -> str:
    """Return the overlay as RTLIL; its top module is `TOP`."""
    return rtlil.convert(Overlay(config), name=TOP, emit_src=False)


def verilog_text(config: OverlayConfig) -> str:
    """Return the overlay as Verilog; its top module is `TOP`."""
    return verilog.convert(Overlay(config), name=TOP, emit_src=False, strip_internal_attrs=True)


def main(arguments: list[str] | None = None) -> int:
    """Write the Verilog of a configuration to a file or to standard output."""
    parser = argparse.ArgumentParser(prog="python -m ciuic_hw.verilog", description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="tiny", help="what to build")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: stdout)")
    options = parser.parse_args(arguments)
    text = verilog_text(CONFIGS[options.config])
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
