"""How a device fails: which errors are its own, and the story that goes with them.

A device's fault (`DeviceError`, `OutOfMemory`, an access that the operating system refused) is not
the caller's: the same work may be done on another device. All else, such as shapes that do not fit,
would fail anywhere and carries no story.
"""

from __future__ import annotations

from collections import deque

from ciuic.errors import CiuicError, DeviceError, DeviceTimeout, OutOfMemory, Story

from .statistics import TaskRecord

REMEMBERED = 5  # tasks and transfers before a failure that its story tells


class History:
    """The last things that a device did.

    Parameters
    ----------
    uri
        The device's.

    Attributes
    ----------
    lost
        What made the device unusable for good, or None: an answer that did not come, or an access
        that the operating system refused. Other faults leave a device that can be used again.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._records: deque[TaskRecord] = deque(maxlen=REMEMBERED)
        self.lost: str | None = None
        self._end: Story | None = None  # of what it is lost by

    def add(self, record: TaskRecord) -> None:
        """Take note of a task or transfer that is done."""
        self._records.append(record)

    def check(self, op: str) -> None:
        """Raise `DeviceError` if the device is lost."""
        if self.lost is not None:
            error = DeviceError(f"{self._uri} cannot run {op} any more: {self.lost}")
            error.story = self._end
            raise error

    def fault(
        self, error: BaseException, doing: str, inputs: tuple[tuple[int, ...], ...] = ()
    ) -> BaseException:
        """Return an error with its story, if it is the device's fault and has none yet."""
        if isinstance(error, OSError | MemoryError):
            found: CiuicError = DeviceError(f"{self._uri}: {error or type(error).__name__}")
            found.__cause__ = error
            lost = True
        elif isinstance(error, DeviceError | OutOfMemory):
            found = error
            lost = isinstance(error, DeviceTimeout)
        else:
            return error
        if found.story is None:
            found.story = Story(
                device=self._uri,
                doing=doing + "".join(f" {_shape(shape)}" for shape in inputs),
                before=tuple(map(_told, tuple(self._records))),
            )
            if lost:
                self.lost, self._end = str(found), found.story
        return found


def _told(record: TaskRecord) -> str:
    shapes = "".join(f" {_shape(shape)}" for shape in record.inputs)
    moved = f" {record.nbytes:,} bytes" if record.nbytes else ""
    return f"{record.op}{shapes}{moved} ({1e3 * record.seconds:.3g} ms)"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "scalar"
