"""Usage and Trace: what they make of task records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ciuic.devices import TaskRecord
from ciuic.scheduler.trace import Trace, Usage, UsageRow

RECORDS = [
    TaskRecord("cpu", "add", ((2, 3), (2, 3)), {}, 10.0, 0.25, 0),
    TaskRecord("gpu", "upload", (), {}, 10.25, 0.125, 24),
    TaskRecord("gpu", "linear", ((2, 3), (3, 4)), {}, 10.5, 0.75, 0),
    TaskRecord("gpu", "download", ((2, 4),), {}, 11.25, 0.125, 32),
    TaskRecord("cpu", "add", ((2, 3), (2, 3)), {}, 11.5, 0.0, 0),
]


def test_usage_is_counted_by_device() -> None:
    usage = Usage()
    for record in RECORDS:
        usage(record)
    rows = usage.rows({("gpu", "rope"): 3, ("fpga", "rope"): 1, ("gpu", "add"): 0})
    assert rows == [
        UsageRow("cpu", tasks=2, seconds=0.25, nbytes=0, share=0.25, ops={"add": 2}),
        UsageRow("fpga", tasks=0, seconds=0.0, nbytes=0, share=0.0, on_host={"rope": 1}),
        UsageRow(*("gpu", 1, 0.75, 56, 0.75), ops={"linear": 1}, on_host={"rope": 3}),
    ]
    assert json.loads(json.dumps(rows[0].as_dict()))["share"] == 0.25
    usage.clear()
    assert usage.rows({}) == []


def test_a_trace_has_a_lane_for_tasks_and_one_for_transfers_of_a_device(tmp_path: Path) -> None:
    trace = Trace()
    for record in RECORDS:
        trace(record)
    assert trace.records == RECORDS
    trace.write(tmp_path / "trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    written = json.loads((tmp_path / "trace.json").read_text())
    events = written["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    assert sorted(names.values()) == ["cpu", "gpu", "gpu transfers"]
    tasks = [event for event in events if event["ph"] == "X"]
    seen = [(names[e["tid"]], e["name"], e["cat"], e["ts"], e["dur"]) for e in tasks]
    assert seen == [
        ("cpu", "add", "task", 0, 250_000),
        ("gpu transfers", "upload", "transfer", 250_000, 125_000),
        ("gpu", "linear", "task", 500_000, 750_000),
        ("gpu transfers", "download", "transfer", 1_250_000, 125_000),
        ("cpu", "add", "task", 1_500_000, 0),
    ]
    assert tasks[1]["args"]["bytes"] == 24
    assert tasks[2]["args"] == {"inputs": [[2, 3], [3, 4]]}


def test_an_empty_trace_can_be_written(tmp_path: Path) -> None:
    Trace().write(tmp_path / "trace.json")
    assert json.loads((tmp_path / "trace.json").read_text())["traceEvents"] == []


def test_a_trace_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError("no room")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match=r"^no room$"):
        Trace().write(tmp_path / "trace.json")
    assert list(tmp_path.iterdir()) == []
