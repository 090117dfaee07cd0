"""``fpga:pynq-sim``: Ciuic's driver on `pynq` on a simulated board, all in this process."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

from ciuic_host.memory import MIB
from ciuic_host.pynq import PynqTransport, require_pynq
from ciuic_host.transport import Transport
from ciuic_host.uri import Options

from ciuic.abi import ADDRESS_MAPS, CONFIGS

from .bitstream import write_bitstream
from .board import CMA_BYTES, Board
from .settings import MemorySettings


def open_transport(options: Options) -> Transport:
    """Open the overlay of a simulated board as a program on the board would.

    Options: ``board``, ``config`` (of the overlay, by default the board's), ``memory`` (MiB),
    ``clock`` (MHz), ``poll`` (0 or 1), and those of `MemorySettings`.
    """
    name = options.text("board", "pynq-z2", ADDRESS_MAPS)
    config = CONFIGS[options.text("config", name, CONFIGS)]
    memory_bytes = options.integer("memory", CMA_BYTES // MIB, 1, 256) * MIB
    clock_mhz = options.integer("clock", 0, 0, 1000)
    poll = options.flag("poll", False)
    settings = MemorySettings.from_options(options)
    options.check_all_known()
    require_pynq(options.uri)
    from .pynq_device import SimulatedDevice

    with ExitStack() as stack:
        board = stack.enter_context(
            Board(name, memory_bytes=memory_bytes, settings=settings, report=options.report)
        )
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ciuic-board-")))
        bitstream = write_bitstream(folder, name, config)
        closing = stack.pop_all()
    return PynqTransport(
        options.uri,
        bitstream,
        SimulatedDevice(board),
        memory_bytes=memory_bytes,
        clock_mhz=clock_mhz or None,
        poll=poll,
        on_close=closing.close,
    )
