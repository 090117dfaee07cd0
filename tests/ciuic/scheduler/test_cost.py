"""CostModel: the roofline, then what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ciuic.devices import Roofline, TaskRecord
from ciuic.scheduler.cost import (
    DRIFT_SECONDS,
    LARGE_TRANSFER,
    RECENT,
    Calibrated,
    Calibration,
    CostModel,
    Link,
    roofline_seconds,
    shape_class,
)

ROOFLINE = Roofline(
    flops_per_second=1e9, bytes_per_second=1e8, link_bytes_per_second=1e7, task_seconds=1e-4
)


def device(uri: str, *, on_host: bool = False) -> Any:
    return SimpleNamespace(uri=uri, roofline=ROOFLINE, arrays_on_host=on_host)


def record(op: str, inputs: Any, seconds: float, nbytes: int = 0) -> TaskRecord:
    return TaskRecord("a", op, inputs, {}, 0.0, seconds, nbytes)


def test_shape_classes_round_up_to_powers_of_two() -> None:
    assert shape_class([(1, 576), (1000,), (1024,), ()]) == ((1, 1024), (1024,), (1024,), ())


@pytest.mark.parametrize(
    ("t", "seconds"),
    [
        (1, 1e-4 + (100 * 100 + 4 * 300) / 1e8),  # bound by bytes
        (1000, 1e-4 + 2 * 1000 * 100 * 100 / 1e9),  # bound by arithmetic
    ],
)
def test_before_measuring_the_roofline_holds(t: int, seconds: float) -> None:
    costs = CostModel()
    inputs = [(t, 100), (100, 100)]
    assert costs.seconds(device("a"), "linear", inputs, {}) == pytest.approx(seconds)
    assert not costs.is_measured(device("a"), "linear", inputs)


def test_measurements_replace_it_for_their_class_and_device() -> None:
    costs = CostModel()
    costs.observe(record("add", ((5, 64), (5, 64)), 0.5))
    assert costs.seconds(device("a"), "add", [(8, 60), (7, 64)], {}) == 0.5
    assert costs.is_measured(device("a"), "add", [(8, 60), (7, 64)])
    assert costs.seconds(device("a"), "add", [(9, 64), (9, 64)], {}) < 0.1
    assert costs.seconds(device("b"), "add", [(5, 64), (5, 64)], {}) < 0.1


def test_recent_measurements_weigh_more() -> None:
    costs = CostModel()
    for seconds in (1.0, 2.0):
        costs.observe(record("add", ((4,), (4,)), seconds))
    assert costs.seconds(device("a"), "add", [(4,), (4,)], {}) == 1.0 + RECENT


def test_transfers_count_the_devices_that_bytes_must_cross() -> None:
    costs = CostModel()
    a, b, host = device("a"), device("b"), device("cpu", on_host=True)
    nbytes = 10 * LARGE_TRANSFER
    one_way = 1e-4 + nbytes / 1e7
    assert costs.transfer_seconds(a, a, nbytes) == 0
    assert costs.transfer_seconds(a, host, nbytes) == pytest.approx(one_way)
    assert costs.transfer_seconds(a, b, nbytes) == pytest.approx(2 * one_way)
    costs.observe(record("upload", (), 1e-9 * nbytes, nbytes))
    costs.observe(record("download", (), 1.0, 8))  # small: latency, no measure of a link
    assert costs.transfer_seconds(a, host, nbytes) == pytest.approx(1e-4 + 1e-9 * nbytes)


def test_contexts_of_attention_are_told_apart() -> None:
    costs = CostModel()
    inputs = ((1, 2, 4), (512, 2, 4), (512, 2, 4))
    for offset, seconds in ((1, 0.1), (500, 0.9)):
        costs.observe(TaskRecord("a", "attention", inputs, {"offset": offset}, 0.0, seconds, 0))
    for offset, seconds in ((1, 0.1), (500, 0.9), (400, 0.9)):
        attributes = {"offset": offset, "scale": 1.0}
        assert costs.seconds(device("a"), "attention", inputs, attributes) == seconds


def calibrated(*, seconds: float = 0.5, asked: list[str] | None = None) -> CostModel:
    """Return a model that finds one calibrated ``add`` of device a."""
    inputs = ((64, 64), (64, 64))
    roofline = roofline_seconds(device("a"), "add", inputs, {})
    found = Calibration((Calibrated("add", inputs, 0, seconds, roofline),), Link(1e-3, 1e-6))

    def stored(one: Any) -> Calibration | None:
        if asked is not None:
            asked.append(one.uri)
        return found if one.uri == "a" else None

    return CostModel(stored)


def test_calibration_is_asked_for_once_a_device() -> None:
    asked: list[str] = []
    costs = calibrated(asked=asked)
    for _ in range(2):
        assert costs.seconds(device("a"), "add", [(64, 64), (64, 64)], {}) == 0.5
        assert not costs.is_measured(device("b"), "add", [(64, 64), (64, 64)])
    assert asked == ["a", "b"]


def test_other_sizes_are_in_proportion_to_their_rooflines() -> None:
    costs = calibrated()
    large, small = [(64, 64)] * 2, [(1000, 64)] * 2
    ratio = roofline_seconds(device("a"), "add", small, {}) / roofline_seconds(
        device("a"), "add", large, {}
    )
    assert costs.seconds(device("a"), "add", small, {}) == pytest.approx(0.5 * ratio)
    assert costs.is_measured(device("a"), "add", small)
    assert not costs.is_measured(device("a"), "silu_mul", small)


def test_what_ran_since_counts_for_more_than_the_calibration() -> None:
    costs = calibrated()
    costs.observe(record("add", ((64, 64), (64, 64)), 0.1))
    assert costs.seconds(device("a"), "add", [(64, 64), (64, 64)], {}) == 0.1


def test_calibrated_links_have_a_latency() -> None:
    costs = calibrated()
    host = device("cpu", on_host=True)
    assert costs.transfer_seconds(host, device("a"), 1000) == pytest.approx(2e-3)
    nbytes = 10 * LARGE_TRANSFER
    for _ in range(60):  # the link is twice as fast as it was
        costs.observe(record("upload", (), 1e-3 + 0.5e-6 * nbytes, nbytes))
    assert costs.transfer_seconds(host, device("a"), nbytes) == pytest.approx(
        1e-3 + 0.5e-6 * nbytes
    )


SHAPES = ((4, 4), (4, 4))


@pytest.mark.parametrize(
    ("planned", "ran", "count", "drift"),
    [
        (0.01, 0.01, 100, 0.0),
        (0.01, 0.013, 100, 0.3),
        (0.01, 0.005, 100, -0.5),
        (0.01, 9.0, 1, 0.0),  # one slow task is noise
        (2 * DRIFT_SECONDS, 3 * DRIFT_SECONDS, 1, 0.5),
    ],
)
def test_drift_is_what_tasks_take_over_what_was_planned(
    planned: float, ran: float, count: int, drift: float
) -> None:
    costs = CostModel()
    costs.observe(record("add", SHAPES, planned))
    assert costs.drift("a") == 0.0
    costs.settle()
    for _ in range(count):
        costs.observe(record("add", SHAPES, ran))
        costs.observe(record("silu_mul", SHAPES, 9.0))  # was not planned with
    assert costs.drift("a") == pytest.approx(drift)
    assert costs.drift("b") == 0.0
    costs.settle()
    assert costs.drift("a") == 0.0


def test_arrays_that_lie_on_the_host_are_not_moved() -> None:
    """As an overlay's, whose driver takes them from there."""
    costs, nbytes = CostModel(), 10 * LARGE_TRANSFER
    host, overlay, gpu = (device("cpu", on_host=True), device("b", on_host=True), device("a"))
    assert costs.transfer_seconds(host, overlay, nbytes) == 0
    one_way = costs.transfer_seconds(gpu, host, nbytes)
    assert costs.transfer_seconds(gpu, overlay, nbytes) == one_way > 0
