"""`python -m ciuic_hw.hls_header --config NAME -o FILE`: the contract as a C++ header.

The kernels of `hw/hls` include it as ``constants.hpp``, so they repeat no number of `ciuic.abi`.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ciuic.abi import CONFIGS, Flag, Format, OverlayConfig, numerics

__all__ = ["COSIM_DEPTH", "header_text"]

CONFIG_FIELDS = ("rows", "cols", "bus_bytes", "accumulator_rows", "lanes", "max_row")
NUMERICS = (
    "DISTANCE_BITS",
    "SCALED_BITS",
    "MULTIPLIER_BITS",
    "PRE_SHIFT",
    "MAX_SHIFT",
    "POST_SHIFT",
    "EXPONENT_FRACTION",
    "EXPONENT_LIMIT",
    "MANTISSA_FRACTION",
    "SUM_FRACTION",
    "RECIPROCAL_FRACTION",
    "PROBABILITY_FRACTION",
    "TABLE_BITS",
    "STEP_BITS",
    "SLOPE_BITS",
    "RESULT_FRACTION_16",
    "RESULT_FRACTION_8",
    "SNAP_8",
    "SNAP_8_STEP",
    "SNAP_8_LARGE",
    "SNAP_8_MEDIUM",
)
COSIM_DEPTH = 8192  # entries of every memory port in co-simulation; no test vector has more
WORDS_PER_LINE = 8


def header_text(config: OverlayConfig) -> str:
    """Return the header of a configuration."""
    return "\n".join(
        [
            f"// Written by `python -m ciuic_hw.hls_header --config {config.name}`; do not edit.",
            "#pragma once",
            "",
            "#include <cstdint>",
            "",
            "namespace ciuic {",
            "",
            *_constants(config),
            "",
            *_table("EXP2_TABLE", numerics.MANTISSA_FRACTION + 1, numerics.exp2_table()),
            *_table("RECIPROCAL_TABLE", numerics.RECIPROCAL_FRACTION, numerics.reciprocal_table()),
            "}  // namespace ciuic",
            "",
        ]
    )


def _constants(config: OverlayConfig) -> Iterator[str]:
    named = {
        **{field.upper(): getattr(config, field) for field in CONFIG_FIELDS},
        "COSIM_DEPTH": COSIM_DEPTH,
        **{name: getattr(numerics, name) for name in NUMERICS},
        **{f"FLAG_{flag.name}": flag.value for flag in Flag},
        **{f"FORMAT_{one.name}": one.value for one in Format},
    }
    for name, value in named.items():
        yield f"constexpr int {name} = {value};"
    nbytes = ", ".join(str(one.nbytes) for one in sorted(Format))
    yield f"constexpr int FORMAT_NBYTES[] = {{{nbytes}}};"


def _table(name: str, value_bits: int, table: numerics.Table) -> Iterator[str]:
    """Write a table as the gateware holds it: in each word the value, above it the slope."""
    words = [str(value | slope << value_bits) for value, slope in table]
    yield f"constexpr uint32_t {name}[{len(words)}] = {{"
    for start in range(0, len(words), WORDS_PER_LINE):
        yield f"    {', '.join(words[start : start + WORDS_PER_LINE])},"
    yield "};"
    yield ""


def main(arguments: list[str] | None = None) -> int:
    """Write the header of a configuration to a file or to standard output."""
    parser = argparse.ArgumentParser(prog="python -m ciuic_hw.hls_header", description=__doc__)
    parser.add_argument("--config", choices=sorted(CONFIGS), default="tiny", help="what to build")
    parser.add_argument("-o", "--output", type=Path, help="file to write (default: stdout)")
    options = parser.parse_args(arguments)
    text = header_text(CONFIGS[options.config])
    if options.output is None:
        sys.stdout.write(text)
    else:
        options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
