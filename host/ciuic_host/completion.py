"""What the overlay answered, in words."""

from __future__ import annotations

from dataclasses import dataclass

from ciuic.abi import COMPLETION, Status


@dataclass(frozen=True, kw_only=True)
class Completion:
    """A completion record. Cycles count since the overlay's last reset.

    Parameters
    ----------
    opcode
        What the descriptor asked for, an `Opcode` unless the overlay refused it.
    status
        How it ended.
    index
        Number of the descriptor since the last reset.
    fetched, started, finished
        Cycle at which it had been read, its engine started, its last write was acknowledged.
    beats_read, beats_written
        Beats of its engine on the read and the write channel.
    busy
        Cycles in which the array, or the softmax lanes, took data.
    tag
        The descriptor's tag.
    """

    opcode: int
    status: Status
    index: int
    fetched: int
    started: int
    finished: int
    beats_read: int
    beats_written: int
    busy: int
    tag: int

    @classmethod
    def unpack(cls, data: bytes | memoryview, opcode: int) -> Completion:
        """Return the record that bytes hold."""
        values = COMPLETION.unpack(data)
        return cls(opcode=opcode, status=Status(values.pop("status")), **values)

    @property
    def cycles(self) -> int:
        """Cycles from the start of the engine to the acknowledgement of its last write."""
        return self.finished - self.started
