"""Reading traces in Chrome's format back, and checking that they keep to it.

Source: Google, "Trace Event Format".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

PHASES: dict[str, dict[str, tuple[type, ...]]] = {
    "X": {"name": (str,), "cat": (str,), "ts": (int, float), "dur": (int, float)}
    | {"pid": (int,), "tid": (int,), "args": (dict,)},
    "C": {"name": (str,), "cat": (str,), "ts": (int, float), "pid": (int,), "args": (dict,)},
    "M": {"name": (str,), "pid": (int,), "tid": (int,), "args": (dict,)},
}
METADATA = {
    "process_name": ("name", str),
    "thread_name": ("name", str),
    "process_sort_index": ("sort_index", int),
    "thread_sort_index": ("sort_index", int),
}


class Slice(NamedTuple):
    """Something that took time: whose, in which lane, what, when (microseconds), its facts."""

    process: str
    lane: str
    name: str
    start: float
    duration: float
    args: dict[str, Any]


def check_format(trace: Mapping[str, Any]) -> None:
    """Raise `AssertionError` if a trace is not in Chrome's JSON object format.

    Besides the keys of each event: slices of a lane lie beside or inside each other, and every
    process and lane has one name.
    """
    assert set(trace) == {"traceEvents", "displayTimeUnit"}
    assert trace["displayTimeUnit"] in ("ms", "ns")
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    named: set[tuple[str, int, int]] = set()
    for event in trace["traceEvents"]:
        wanted = PHASES[event["ph"]]
        assert set(event) == {"ph", *wanted}, event
        for key, types in wanted.items():
            assert isinstance(event[key], types), event
        if event["ph"] == "M":
            key, type_ = METADATA[event["name"]]
            assert set(event["args"]) == {key}, event
            assert isinstance(event["args"][key], type_), event
            assert (event["name"], event["pid"], event["tid"]) not in named, event
            named.add((event["name"], event["pid"], event["tid"]))
            continue
        assert event["ts"] >= 0, event
        if event["ph"] == "C":
            assert all(isinstance(value, int | float) for value in event["args"].values()), event
            continue
        assert event["dur"] >= 0, event
        assert ("process_name", event["pid"], 0) in named, event
        assert ("thread_name", event["pid"], event["tid"]) in named, event
        lane = lanes.setdefault((event["pid"], event["tid"]), [])
        lane.append((event["ts"], event["ts"] + event["dur"]))


def check_nesting(trace: Mapping[str, Any], lane: str) -> None:
    """Raise `AssertionError` if slices of lanes of a name overlap: viewers show only one of two."""
    ends: dict[str, float] = {}
    for one in sorted(slices(trace), key=lambda one: one.start):
        if one.lane == lane:
            assert one.start >= ends.get(one.process, 0.0) - 0.001, one  # nanoseconds
            ends[one.process] = one.start + one.duration


def slices(trace: Mapping[str, Any]) -> list[Slice]:
    """Return the slices of a trace, in its order."""
    events = trace["traceEvents"]
    names = {
        (event["name"], event["pid"], event["tid"]): event["args"]["name"]
        for event in events
        if event["ph"] == "M" and "name" in event["args"]
    }
    return [
        Slice(
            names["process_name", event["pid"], 0],
            names["thread_name", event["pid"], event["tid"]],
            *(event[key] for key in ("name", "ts", "dur", "args")),
        )
        for event in events
        if event["ph"] == "X"
    ]
