"""CostModel: the roofline, then what was measured."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ciuic.devices import Roofline, TaskRecord
from ciuic.scheduler.cost import LARGE_TRANSFER, RECENT, CostModel, shape_class

ROOFLINE = Roofline(
    flops_per_second=1e9, bytes_per_second=1e8, link_bytes_per_second=1e7, task_seconds=1e-4
)


def device(uri: str, *, host_memory: bool = False) -> Any:
    return SimpleNamespace(uri=uri, roofline=ROOFLINE, host_memory=host_memory)


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
    a, b, host = device("a"), device("b"), device("cpu", host_memory=True)
    nbytes = 10 * LARGE_TRANSFER
    one_way = 1e-4 + nbytes / 1e7
    assert costs.transfer_seconds(a, a, nbytes) == 0
    assert costs.transfer_seconds(a, host, nbytes) == pytest.approx(one_way)
    assert costs.transfer_seconds(a, b, nbytes) == pytest.approx(2 * one_way)
    costs.observe(record("upload", (), 1e-9 * nbytes, nbytes))
    costs.observe(record("download", (), 1.0, 8))  # small: latency, no measure of a link
    assert costs.transfer_seconds(a, host, nbytes) == pytest.approx(1e-4 + 1e-9 * nbytes)
