"""Usage and Trace: what they make of task records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ciuic.devices import TaskRecord
from ciuic.devices.statistics import Span
from ciuic.scheduler.trace import Trace, Usage, UsageRow

from .chrome_format import check_format, slices

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


def test_a_trace_has_lanes_of_tasks_link_hardware_and_waits(tmp_path: Path) -> None:
    trace = Trace()
    for record in RECORDS:
        trace(record)
    spans = (Span("GEMM", 10.5, 0.25, {"cycles": 25}), Span("GEMM", 10.75, 0.5, {"cycles": 50}))
    trace(TaskRecord("gpu", "linear", (), {}, 10.5, 0.75, 0, 100, spans))
    trace(TaskRecord("gpu", "wait", (), {}, 10.5, 0.8, 0))
    assert trace.records[: len(RECORDS)] == RECORDS
    trace.write(tmp_path / "trace.json")
    assert [path.name for path in tmp_path.iterdir()] == ["trace.json"]
    written = json.loads((tmp_path / "trace.json").read_text())
    check_format(written)
    assert [tuple(one[:5]) for one in slices(written)] == [
        ("cpu", "tasks", "add", 0, 250_000),
        ("gpu", "link to the host", "upload", 250_000, 125_000),
        ("gpu", "tasks", "linear", 500_000, 750_000),
        ("gpu", "tasks", "linear", 500_000, 750_000),
        ("gpu", "descriptors, at the overlay's clock", "GEMM", 500_000, 250_000),
        ("gpu", "descriptors, at the overlay's clock", "GEMM", 750_000, 500_000),
        ("gpu", "the host waits", "wait", 500_000, 800_000),
        ("gpu", "link to the host", "download", 1_250_000, 125_000),
        ("cpu", "tasks", "add", 1_500_000, 0),
    ]
    assert slices(written)[1].args == {"bytes": 24}
    assert slices(written)[2].args == {"inputs": [[2, 3], [3, 4]]}
    assert slices(written)[4].args == {"cycles": 25}


def test_memory_is_counted_by_tier_when_it_changes() -> None:
    trace = Trace()
    trace.tiers = {"cpu": "host", "gpu": "device", "fpga": "device"}
    for device, end, used in (
        *(("cpu", 1.0, 10), ("cpu", 2.0, 10), ("gpu", 3.0, 5)),
        *(("fpga", 4.0, 7), ("gpu", 5.0, 0)),
    ):
        trace(TaskRecord(device, "add", (), {}, end - 1.0, 1.0, 0, used))
    chrome = trace.chrome()
    check_format(chrome)
    counted = [event for event in chrome["traceEvents"] if event["ph"] == "C"]
    assert [(one["name"], one["ts"], one["args"]) for one in counted] == [
        ("host bytes", 1e6, {"cpu": 10}),
        ("device bytes", 3e6, {"gpu": 5}),
        ("device bytes", 4e6, {"gpu": 5, "fpga": 7}),
        ("device bytes", 5e6, {"gpu": 0, "fpga": 7}),
    ]


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
