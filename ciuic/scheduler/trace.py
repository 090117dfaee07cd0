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

    def rows(self, fallbacks: Mapping[tuple[str, str], int]) -> list[UsageRow]:
        """Return a row per device; ``fallbacks`` as `Executor.fallbacks` counts them."""
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
                    ops=dict(total.ops),
                    on_host={op: n for (uri, op), n in fallbacks.items() if uri == device and n},
                )
            )
        return sorted(rows, key=lambda row: row.device)


class Trace:
    """Every task and transfer, for the Chrome and Perfetto trace viewers."""

    def __init__(self) -> None:
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
        """Return the trace in Chrome's JSON object format, times in microseconds.

        Each device has a lane for tasks and one for transfers.
        """
        records = self.records
        origin = min((record.start for record in records), default=0.0)
        lanes: dict[tuple[str, bool], int] = {}
        events: list[dict[str, Any]] = []
        for record in records:
            lane = (record.device, record.op in TRANSFERS)
            if lane not in lanes:
                lanes[lane] = len(lanes)
            events.append(
                {
                    "name": record.op,
                    "cat": "transfer" if lane[1] else "task",
                    "ph": "X",
                    "ts": (record.start - origin) * 1e6,
                    "dur": record.seconds * 1e6,
                    "pid": 0,
                    "tid": lanes[lane],
                    "args": {"inputs": [list(shape) for shape in record.inputs]}
                    | ({"bytes": record.nbytes} if lane[1] else {}),
                }
            )
        names = [
            {
                "name": "thread_name",
                "ph": "M",
                "pid": 0,
                "tid": number,
                "args": {"name": f"{device} transfers" if transfers else device},
            }
            for (device, transfers), number in lanes.items()
        ]
        return {"traceEvents": names + events, "displayTimeUnit": "ms"}

    def write(self, path: Path | str) -> None:
        """Write the trace to a file, whole or not at all."""
        path = Path(path)
        draft = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            draft.write_text(json.dumps(self.chrome()), encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
