"""Boards that can be broken, each below `pynq` in two ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from ciuic_host import Overlay
from ciuic_sim.bitstream import write_bitstream
from ciuic_sim.board import Board

from ciuic import reference
from ciuic.abi import CONFIGS

if TYPE_CHECKING:  # they need pynq, and pytest reads this file where there is none
    from ciuic_host.pynq import PynqTransport
    from ciuic_sim.pynq_server import BoardServer

TIMEOUT_SECONDS = 2.0
NEEDS = "needs pynq: pip install 'ciuic[pynq]'"
WAYS = ("in-process", "remote")


class Bench:
    """A simulated PYNQ-Z2 and the ways to it.

    Parameters
    ----------
    board
        The board.
    server
        Its PYNQ.remote server; None where `pynq` reaches it in this process.
    folder
        Where bitstreams go.
    """

    def __init__(self, board: Board, server: BoardServer | None, folder: Path) -> None:
        self.board = board
        self.server = server
        self.folder = folder

    def bitstream(self, board: str = "pynq-z2", config: str = "tiny", **options: int) -> Path:
        """Return a bitstream."""
        return write_bitstream(self.folder, board, CONFIGS[config], **options)

    def transport(self, bitstream: Path | None = None, **options: Any) -> PynqTransport:
        """Open a transport as `ciuic_host.open` would."""
        from ciuic_host.pynq import PynqTransport
        from ciuic_host.pynq_remote import connect
        from ciuic_sim.pynq_device import SimulatedDevice

        path = bitstream or self.bitstream()
        if self.server is None:
            options.setdefault("memory_bytes", self.board.memory_bytes)
            return PynqTransport("fpga:pynq", path, SimulatedDevice(self.board), **options)
        name = f"fpga:pynq@{self.server.address}"
        device, deadline = connect(name, self.server.address)
        return PynqTransport(name, path, device, poll=True, deadline=deadline, **options)

    def open(self, bitstream: Path | None = None, **options: Any) -> Overlay:
        """Open the driver."""
        transport = self.transport(bitstream, **options)
        try:
            return Overlay(transport, timeout=TIMEOUT_SECONDS)
        except BaseException:
            transport.close()
            raise


@pytest.fixture(params=WAYS)
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """A board, and a check that it works and that nothing of it is taken once the test is over."""
    pytest.importorskip("pynq", reason=NEEDS)
    from ciuic_sim.pynq_server import BoardServer

    with ExitStack() as stack:
        board = stack.enter_context(Board("pynq-z2", memory_bytes=16 << 20))
        remote = request.param == "remote"
        server = stack.enter_context(BoardServer(board)) if remote else None
        bench = Bench(board, server, tmp_path)
        yield bench
        assert board.used == 0
        with bench.open() as overlay:
            check_gemm(overlay)
        assert board.used == 0


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Bench]:
    """A board that `pynq` reaches in this process."""
    pytest.importorskip("pynq", reason=NEEDS)
    with Board("pynq-z2", memory_bytes=16 << 20) as board:
        yield Bench(board, None, tmp_path)


@pytest.fixture
def check() -> Callable[[Overlay], None]:
    """Return what computes a product and compares it."""
    return check_gemm


def check_gemm(overlay: Overlay) -> None:
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print(f"seed {seed}")  # pytest shows it when the test fails
    rng = np.random.default_rng(seed)
    m, k, n = (int(size) for size in 1 + rng.integers(0, (20, 100, 40)))
    activations = rng.integers(-128, 128, (m, k), dtype=np.int8)
    weights = rng.integers(-128, 128, (k, n), dtype=np.int8)
    np.testing.assert_array_equal(
        overlay.gemm(activations, weights), reference.gemm(activations, weights)
    )
