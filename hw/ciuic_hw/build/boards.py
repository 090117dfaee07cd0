"""The boards that `ciuic build` knows: which configuration, which part, what the part holds.

Sources: Lattice FPGA-DS-02012 (ECP5 and ECP5-5G), AMD DS190 (Zynq-7000), AMD DS987 (Kria K26); the
constraints of ULX3S (https://github.com/emard/ulx3s, doc/constraints), a board with an LFE5U-85F.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ciuic.abi import CONFIGS, OverlayConfig
from ciuic.errors import UsageError

__all__ = ["BOARDS", "HEADROOM", "Board", "Resource", "board"]

HEADROOM = 0.8  # share of each resource beyond which routing gets hard


@dataclass(frozen=True)
class Resource:
    """One kind of resource of a part.

    Parameters
    ----------
    available
        How many the part has.
    cells
        Name of a cell in the netlist -> how many of the resource it takes.
    bel
        What nextpnr calls the resource; its count holds once a design is placed.
    """

    available: int
    cells: Mapping[str, float]
    bel: str = ""


@dataclass(frozen=True)
class Board:
    """A board.

    Parameters
    ----------
    name
        As in ``ciuic build --board NAME``.
    config
        The overlay's configuration.
    part
        The device.
    synthesize
        The Yosys commands that map to it, with ``{top}`` for the name of the top module.
    resources
        What the part holds.
    nextpnr
        Options that name the part to nextpnr-ecp5; none where it is not placed and routed.
    pins
        Port of `ciuic_hw.ecp5.system.Ecp5Top` -> pin of the package.
    seed
        Of the placement: the one with the fastest clock of those that were tried.
    """

    name: str
    config: OverlayConfig
    part: str
    synthesize: str
    resources: Mapping[str, Resource]
    nextpnr: tuple[str, ...] = ()
    pins: Mapping[str, str] = field(default_factory=dict)
    seed: int = 1


_LUTRAM = {
    **{f"RAM{depth}X1{ports}": count for depth, ports, count in (
        (32, "S", 1), (32, "D", 2), (64, "S", 1), (64, "D", 2), (128, "S", 2), (128, "D", 4),
        (256, "S", 4), (256, "D", 8),
    )},
    **dict.fromkeys(("RAM32M", "RAM64M"), 4),
    **dict.fromkeys(("RAM32M16", "RAM64M8"), 8),
    **dict.fromkeys(("SRL16E", "SRLC32E"), 1),
}  # fmt: skip
_LUTS = {f"LUT{inputs}": 1 for inputs in range(1, 7)}


def _xilinx(lut: int, ff: int, bram: int, dsp: int, generation: int) -> dict[str, Resource]:
    return {
        "LUT": Resource(lut, {**_LUTS, "INV": 1, **_LUTRAM}),
        "FF": Resource(ff, dict.fromkeys(("FDRE", "FDSE", "FDCE", "FDPE"), 1)),
        "BRAM (36 Kb)": Resource(bram, {f"RAMB36E{generation}": 1, f"RAMB18E{generation}": 0.5}),
        "DSP": Resource(dsp, {f"DSP48E{generation}": 1}),
    }


# A reset that fewer than eight registers have is made of logic before them: the way to a slice's
# own is longer. Otherwise this is what synth_ecp5 does with registers.
_REGISTERS = (
    *("$_DFF_?_ 01", "$_DFF_?P?_ r", "$_SDFF_?P?_ r"),
    *("$_DFFE_??_ 01", "$_DFFE_?P??_ r", "$_SDFFE_?P??_ r"),
    "$_DLATCH_?_ x",
)
_SYNTH_ECP5 = (
    "synth_ecp5 -top {top} -run :map_ffs; opt_clean; "
    f"dfflegalize {' '.join(f'-cell {one}' for one in _REGISTERS)} -minsrst 8; "
    "opt_merge; opt_clean; synth_ecp5 -top {top} -run map_ffs:"
)

BOARDS: dict[str, Board] = {
    one.name: one
    for one in (
        Board(
            name="ecp5-85f",
            config=CONFIGS["tiny"],
            part="LFE5U-85F-6BG381",
            synthesize=_SYNTH_ECP5,
            resources={
                # A carry cell is two LUTs; a distributed RAM takes two for storage, two to write.
                "LUT": Resource(
                    83640, {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}, "TRELLIS_COMB"
                ),
                "FF": Resource(83640, {"TRELLIS_FF": 1}, "TRELLIS_FF"),
                "BRAM (18 Kb)": Resource(208, {"DP16KD": 1}, "DP16KD"),
                "DSP": Resource(156, {"MULT18X18D": 1}, "MULT18X18D"),
            },
            nextpnr=("--85k", "--speed", "6", "--package", "CABGA381"),
            pins={"clk": "G2", "rx": "M1", "tx": "L4", "led": "B2"},
            seed=3,
        ),
        Board(
            name="pynq-z2",
            config=CONFIGS["pynq-z2"],
            part="xc7z020clg400-1",
            synthesize="synth_xilinx -family xc7 -flatten -top {top}",
            resources=_xilinx(53200, 106400, 140, 220, generation=1),
        ),
        Board(
            name="kv260",
            config=CONFIGS["kv260"],
            part="xck26-sfvc784-2LV-c",
            synthesize="synth_xilinx -family xcup -flatten -top {top}",
            resources=_xilinx(117120, 234240, 144, 1248, generation=2),
        ),
    )
}


def board(name: str) -> Board:
    """Return a board by its name.

    Raises
    ------
    UsageError
        If there is none of that name.
    """
    if name not in BOARDS:
        raise UsageError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    return BOARDS[name]
