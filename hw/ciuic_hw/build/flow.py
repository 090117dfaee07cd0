"""What the flows have in common: what a build found, synthesis, and the names of bitstreams."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ciuic.overlays import sha256_of

from . import tools
from .boards import HEADROOM, Board

__all__ = ["Bitstream", "Build", "Clock", "Report", "Use", "name_bitstream", "synthesize"]

HASH_DIGITS = 12  # of a bitstream's SHA-256, in its name

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Use:
    """How much of one resource is used, in the units of the part's data sheet."""

    resource: str
    used: float
    available: int

    @property
    def share(self) -> float:
        """Used over available."""
        return self.used / self.available

    @property
    def fits(self) -> bool:
        """Whether the rest leaves `HEADROOM`."""
        return self.share <= HEADROOM


@dataclass(frozen=True)
class Clock:
    """Timing after place and route.

    Parameters
    ----------
    hz
        Highest frequency of the worst path.
    wanted_hz
        What was wanted.
    source, sink
        The worst path's first and last cell.
    """

    hz: float
    wanted_hz: float
    source: str
    sink: str

    @property
    def slack(self) -> float:
        """Seconds that the worst path leaves of the wanted period; negative if it is too long."""
        return 1 / self.wanted_hz - 1 / self.hz


@dataclass(frozen=True)
class Bitstream:
    """A bitstream.

    Parameters
    ----------
    path
        Of the file; its handoff file, where it has one, has the same stem.
    clock_hz
        The clock that it was made for.
    """

    path: Path
    clock_hz: float


@dataclass(frozen=True)
class Build:
    """What a build found.

    Parameters
    ----------
    board, config, part
        What was built and for what.
    build_hash
        Identity of the gateware, as in the overlay's registers.
    tools
        Package -> version.
    uses
        Use of each resource.
    clock
        Timing, where the board was placed and routed.
    bitstream
        What was made for the board, if anything.
    """

    board: str
    config: str
    part: str
    build_hash: int
    tools: Mapping[str, str]
    uses: tuple[Use, ...]
    clock: Clock | None
    bitstream: Bitstream | None = None

    @property
    def fits(self) -> bool:
        """Whether every resource leaves headroom."""
        return all(use.fits for use in self.uses)


def name_bitstream(path: Path, board: Board, clock_hz: float, handoff: str = "") -> Bitstream:
    """Give a bitstream the name ``<board>-<configuration>-<first digits of its SHA-256>.bit``.

    PYNQ.remote sends a board only bitstreams whose names it does not have.

    Parameters
    ----------
    path
        The file, which is moved within its folder.
    clock_hz
        What it was made for.
    handoff
        Contents of the handoff file that is written beside it, if not empty.
    """
    digits = sha256_of(path)[:HASH_DIGITS]
    named = path.with_name(f"{board.name}-{board.config.name}-{digits}.bit")
    shutil.move(path, named)
    if handoff:
        named.with_suffix(".hwh").write_text(handoff)
    return Bitstream(named, clock_hz)


def synthesize(board: Board, folder: Path, top: str) -> tuple[Use, ...]:
    """Run Yosys on ``overlay.il`` in a folder; return what the cells of its netlist take."""
    # No word is used that was read while it was written, so no logic need stand for that case.
    memories = "setparam -set COLLISION_X_MASK 1'1 t:$memrd_v2 r:CLK_ENABLE=1 %i; "
    script = f"read_rtlil overlay.il; {memories}{board.synthesize.format(top=top)}; "
    tools.yosys(script + "write_json overlay.json; tee -q -o cells.json stat -json", folder=folder)
    text = (folder / "cells.json").read_text()
    return _uses(board, json.loads(text)["design"]["num_cells_by_type"])


def _uses(board: Board, cells: Mapping[str, int]) -> tuple[Use, ...]:
    return tuple(
        Use(
            name,
            math.ceil(2 * sum(cells.get(cell, 0) * one for cell, one in kind.cells.items())) / 2,
            kind.available,
        )
        for name, kind in board.resources.items()
    )
