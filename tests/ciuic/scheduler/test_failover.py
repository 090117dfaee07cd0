"""Failover: what failed and what is left (events) against the moves that follow (commands)."""

from __future__ import annotations

import pytest

from ciuic.errors import PlacementError
from ciuic.scheduler.failover import Move, Stranded, Survivor, fail_over

HOST = Survivor(device="cpu", kind="CPU", room=100)
SMALL = Survivor(device="fpga:b", kind="FPGA", room=15)
LARGE = Survivor(device="fpga:c", kind="FPGA", room=30)
GPU = Survivor(device="opencl", kind="GPU", room=1000)


def part(name: str, nbytes: int) -> Stranded:
    return Stranded(part=name, nbytes=dict.fromkeys(("cpu", "fpga:b", "fpga:c", "opencl"), nbytes))


@pytest.mark.parametrize(
    ("kind", "survivors", "sizes", "moves"),
    [
        pytest.param("FPGA", [HOST], [10], [("cpu", True)], id="the host, in FPGA's formats"),
        pytest.param("GPU", [HOST], [10], [("cpu", False)], id="the host, in its own formats"),
        pytest.param("FPGA", [HOST, GPU], [10], [("cpu", True)], id="not another kind of device"),
        pytest.param("FPGA", [HOST, SMALL], [10], [("fpga:b", False)], id="a device like it"),
        pytest.param(
            "FPGA", [HOST, SMALL], [10, 10], [("fpga:b", False), ("cpu", True)], id="while it fits"
        ),
        pytest.param(
            "FPGA",
            [HOST, SMALL, LARGE],
            [10, 10, 10],
            [("fpga:c", False), ("fpga:c", False), ("fpga:b", False)],
            id="the one with most room first",
        ),
        pytest.param("GPU", [HOST, GPU], [10], [("opencl", False)], id="another GPU"),
    ],
)
def test_parts_go_to_a_like_device_with_room_or_to_the_host(
    kind: str, survivors: list[Survivor], sizes: list[int], moves: list[tuple[str, bool]]
) -> None:
    parts = [part(f"layer {index}", size) for index, size in enumerate(sizes)]
    assert fail_over(parts, kind=kind, survivors=survivors) == [
        Move(part=f"layer {index}", target=target, as_fpga=as_fpga)
        for index, (target, as_fpga) in enumerate(moves)
    ]


def test_parts_that_find_no_room_are_refused_with_the_numbers() -> None:
    with pytest.raises(
        PlacementError,
        match=r"^no other device has room for layer 0: fpga:b has 15 bytes and needs 101, "
        r"cpu has 100 bytes and needs 101$",
    ):
        fail_over([part("layer 0", 101)], kind="FPGA", survivors=[HOST, SMALL])
