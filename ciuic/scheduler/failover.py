"""Failover: where the parts of a model go when their device has failed. Decides without I/O.

The event is that a device failed; the commands are moves. A part goes to a device of the same kind
that has room, for such have the same number formats, else to the host. Where it then is on another
kind than an FPGA, it must compute in the FPGA's formats, or the text would change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ciuic.errors import PlacementError

from .problem import HOST

FPGA = "FPGA"


@dataclass(frozen=True, kw_only=True)
class Survivor:
    """A device that is left: its URI, kind, and bytes that it has room for."""

    device: str
    kind: str
    room: int


@dataclass(frozen=True, kw_only=True)
class Stranded:
    """A part whose device failed.

    Attributes
    ----------
    part
        Its name.
    nbytes
        Device -> bytes that it would take there.
    """

    part: str
    nbytes: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Move:
    """Put a part on a device; ``as_fpga``: it must go on in an FPGA's number formats there."""

    part: str
    target: str
    as_fpga: bool


def fail_over(parts: Sequence[Stranded], *, kind: str, survivors: Sequence[Survivor]) -> list[Move]:
    """Return where the parts of a device of a kind go now that it has failed.

    Raises
    ------
    PlacementError
        If a part finds no room.
    """
    room = {one.device: one.room for one in survivors}
    like = [one for one in survivors if one.kind == kind and one.device != HOST]
    host = [one for one in survivors if one.device == HOST]
    moves = []
    for part in parts:
        ways = [one for one in (*like, *host) if part.nbytes[one.device] <= room[one.device]]
        if not ways:
            wanted = ", ".join(
                f"{one.device} has {room[one.device]:,} bytes and needs {part.nbytes[one.device]:,}"
                for one in (*like, *host)
            )
            raise PlacementError(f"no other device has room for {part.part}: {wanted or 'none'}")
        # Of like devices the one with most room left, so that they share the work.
        target = max(ways, key=lambda one: (one.kind == kind, room[one.device], one.device))
        room[target.device] -= part.nbytes[target.device]
        as_fpga = kind == FPGA and target.kind != FPGA
        moves.append(Move(part=part.part, target=target.device, as_fpga=as_fpga))
    return moves
