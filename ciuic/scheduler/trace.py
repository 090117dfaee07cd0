"""What ran where: totals per device, and a trace of every task and transfer.

Both are observers of devices (`ciuic.devices.statistics.TaskRecord`).
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ciuic.devices.statistics import TRANSFERS, TaskRecord

from .chrome import chrome_trace


@dataclass(frozen=True)
class UsageRow:
    """What one device did.

    Attributes
    ----------
    device : str
        URI.
    tasks : int
    seconds : float
        Spent in tasks.
    nbytes : int
        Bytes moved to and from the device.
    share : float
        Of the seconds of all devices, 0 to 1.
    utilisation
        Of the seconds that passed, 0 to 1; None if it is not known how many did.
    ops : dict
        Operator -> tasks.
    on_host : dict
        Operator -> tasks meant for this device that ran on the host for want of a kernel.
    """

    device: str
    tasks: int
    seconds: float
    nbytes: int
    share: float
    ops: dict[str, int] = field(default_factory=dict)
    on_host: dict[str, int] = field(default_factory=dict)
    utilisation: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the row for JSON."""
        return asdict(self)


@dataclass
class _Total:
    seconds: float = 0.0
    nbytes: int = 0
    ops: Counter[str] = field(default_factory=Counter)


class Usage:
    """Totals per device since the last ``clear``."""

    def __init__(self) -> None:
        self._totals: dict[str, _Total] = {}

    def __call__(self, record: TaskRecord) -> None:
        """Count one task or transfer."""
        total = self._totals.get(record.device)
        if total is None:
            total = self._totals[record.device] = _Total()
        total.nbytes += record.nbytes
        if record.op not in TRANSFERS:
            total.seconds += record.seconds
            total.ops[record.op] += 1

    def clear(self) -> None:
        """Begin again at zero."""
        self._totals.clear()

    def rows(
        self, fallbacks: Mapping[tuple[str, str], int], seconds: float | None = None
    ) -> list[UsageRow]:
        """Return a row per device.

        Parameters
        ----------
        fallbacks
            As `Executor.fallbacks` counts them.
        seconds
            That passed since the last ``clear``, if known.
        """
        everything = sum(total.seconds for total in self._totals.values())
        devices = dict.fromkeys([*self._totals, *(device for device, _ in fallbacks)])
        rows = []
        for device in devices:
            total = self._totals.get(device, _Total())
            rows.append(
                UsageRow(
                    device=device,
                    tasks=total.ops.total(),
                    seconds=total.seconds,
                    nbytes=total.nbytes,
                    share=total.seconds / everything if everything else 0.0,
                    utilisation=total.seconds / seconds if seconds else None,
                    ops=dict(total.ops),
                    on_host={op: n for (uri, op), n in fallbacks.items() if uri == device and n},
                )
            )
        return sorted(rows, key=lambda row: row.device)


class Trace:
    """Every task, transfer and wait of the host, for the Chrome and Perfetto trace viewers.

    Attributes
    ----------
    tiers
        Device -> the memory tier that its arrays are in.
    """

    def __init__(self) -> None:
        self.tiers: dict[str, str] = {}
        self._records: list[TaskRecord] = []
        self._lock = threading.Lock()

    def __call__(self, record: TaskRecord) -> None:
        """Keep one record."""
        with self._lock:
            self._records.append(record)

    @property
    def records(self) -> list[TaskRecord]:
        """Records so far, in the order in which they ended."""
        with self._lock:
            return list(self._records)

    def chrome(self) -> dict[str, Any]:
        """Return the trace in Chrome's format, see `ciuic.scheduler.chrome`."""
        return chrome_trace(self.records, self.tiers)

    def write(self, path: Path | str) -> None:
        """Write the trace to a file, whole or not at all."""
        path = Path(path)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            draft.write_text(json.dumps(self.chrome()), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
