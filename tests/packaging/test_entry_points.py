"""What the metadata promises to find can be loaded."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points

import pytest

from ciuic.cli.extras import extra_of_module

GROUPS = ("ciuic.devices", "ciuic.transports", "ciuic.benches", "ciuic.commands")
POINTS = [point for group in GROUPS for point in entry_points(group=group)]


@pytest.mark.parametrize("point", POINTS, ids=lambda point: f"{point.group}:{point.name}")
def test_entry_point_loads(point: EntryPoint) -> None:
    try:
        found = point.load()
    except ModuleNotFoundError as error:
        extra = extra_of_module(str(error.name))
        if extra is None:  # no package that may be absent
            raise
        pytest.skip(f"needs {error.name}: {extra.install}")
    assert callable(found) or hasattr(found, "run")


def test_each_group_has_its_members() -> None:
    names = {group: {point.name for point in POINTS if point.group == group} for group in GROUPS}
    assert {"cpu", "opencl", "fpga"} <= names["ciuic.devices"]
    assert {"emulated", "pynq", "pynq-sim", "rtl"} <= names["ciuic.transports"]
    assert {"gemm", "model", "sim", "softmax"} <= names["ciuic.benches"]
    assert {"board", "build"} <= names["ciuic.commands"]
