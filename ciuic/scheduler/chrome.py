"""Chrome's trace format of what devices did, for ui.perfetto.dev: who, when, how much memory.

Source: Google, "Trace Event Format", JSON object format. A device is a process: its tasks, its link
to the host, what its hardware says of itself (an overlay's descriptors), and the host's waits for
it are threads in that order. Each memory tier is a counter, with a series for each device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ciuic.devices.statistics import TRANSFERS, WAIT, TaskRecord

MICROSECONDS = 1e6
MEMORY = 0  # the process of counters


class Lane(NamedTuple):
    """A thread of a device's process: where it stands among them, category and name."""

    number: int
    category: str
    name: str


TASKS = Lane(1, "task", "tasks")
LINK = Lane(2, "transfer", "link to the host")
HARDWARE = Lane(3, "descriptor", "descriptors, at the overlay's clock")
WAITS = Lane(4, "wait", "the host waits")


def chrome_trace(records: Sequence[TaskRecord], tiers: Mapping[str, str]) -> dict[str, Any]:
    """Return records in Chrome's format, times in microseconds after the first.

    Parameters
    ----------
    records
        In any order.
    tiers
        Device -> the memory tier that its arrays are in; "memory" for others.
    """
    starts = [record.start for record in records]
    starts += [span.start for record in records for span in record.spans]
    origin = min(starts, default=0.0)
    processes: dict[str, int] = {}
    lanes: dict[tuple[int, Lane], None] = {}
    events: list[dict[str, Any]] = []
    for record in sorted(records, key=lambda record: record.start):
        process = processes.setdefault(record.device, len(processes) + 1)
        for lane, event in _slices(record, origin):
            lanes.setdefault((process, lane))
            events.append({**event, "pid": process, "tid": lane.number})
    return {
        "traceEvents": [*_names(processes, lanes), *events, *_memory(records, tiers, origin)],
        "displayTimeUnit": "ms",
    }


def _slices(record: TaskRecord, origin: float) -> Iterator[tuple[Lane, dict[str, Any]]]:
    """Yield what a record says, each with its lane."""
    facts: dict[str, Any] = {}
    if record.op in TRANSFERS:
        lane = LINK
        facts["bytes"] = record.nbytes
    else:
        lane = WAITS if record.op == WAIT else TASKS
    if record.inputs:
        facts["inputs"] = [list(shape) for shape in record.inputs]
    yield lane, _slice(record.op, lane, record.start - origin, record.seconds, facts)
    for span in record.spans:
        yield (
            HARDWARE,
            _slice(span.name, HARDWARE, span.start - origin, span.seconds, span.facts),
        )


def _slice(
    name: str, lane: Lane, start: float, seconds: float, facts: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "name": name,
        "cat": lane.category,
        "ph": "X",
        "ts": start * MICROSECONDS,
        "dur": seconds * MICROSECONDS,
        "args": dict(facts),
    }


def _names(
    processes: Mapping[str, int], lanes: Mapping[tuple[int, Lane], None]
) -> Iterator[dict[str, Any]]:
    def name(what: str, pid: int, tid: int, **args: object) -> dict[str, Any]:
        return {"name": what, "ph": "M", "pid": pid, "tid": tid, "args": args}

    for uri, process in processes.items():
        yield name("process_name", process, 0, name=uri)
        yield name("process_sort_index", process, 0, sort_index=process)
    for process, lane in sorted(lanes):
        yield name("thread_name", process, lane.number, name=lane.name)
        yield name("thread_sort_index", process, lane.number, sort_index=lane.number)


def _memory(
    records: Sequence[TaskRecord], tiers: Mapping[str, str], origin: float
) -> Iterator[dict[str, Any]]:
    """Yield the bytes in use of a tier, by device, whenever they change."""
    used: dict[str, dict[str, int]] = {}
    for record in sorted(records, key=lambda record: record.start + record.seconds):
        tier = tiers.get(record.device, "memory")
        here = used.setdefault(tier, {})
        if record.used_bytes is None or here.get(record.device) == record.used_bytes:
            continue
        here[record.device] = record.used_bytes
        yield {
            "name": f"{tier} bytes",
            "cat": "memory",
            "ph": "C",
            "ts": (record.start + record.seconds - origin) * MICROSECONDS,
            "pid": MEMORY,
            "args": dict(here),
        }
