"""Run a simulated board that PYNQ.remote's clients reach, until Ctrl-C.

The board's overlay is RTL, compiled by Verilator. The command writes a bitstream for it and prints
the name by which Ciuic opens the board; any other program that uses pynq reaches it with the
environment variable PYNQ_REMOTE_DEVICES, on port 7967. There is no authentication.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from ciuic_host.memory import MIB
from ciuic_host.pynq import require_pynq

from ciuic.abi import ADDRESS_MAPS, CONFIGS
from ciuic.errors import UsageError

from .bitstream import write_bitstream
from .board import CMA_BYTES, Board

EXAMPLES = """
ciuic board --config tiny
ciuic board --board kv260 --host 0.0.0.0
ciuic board --config tiny --port 0 --json
"""
PORT = 7967


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``ciuic board``."""
    parser.add_argument(
        "--board", choices=ADDRESS_MAPS, default="pynq-z2", help="which board (default: pynq-z2)"
    )
    parser.add_argument(
        "--config", choices=CONFIGS, help="of the overlay (default: the one of the board)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=PORT, help="port, 0 for a free one (7967)")
    parser.add_argument(
        "--memory", type=int, default=CMA_BYTES // MIB, metavar="MIB", help="for buffers (256)"
    )
    parser.add_argument(
        "--bitstream", type=Path, metavar="DIR", help="where its bitstream goes (a new folder)"
    )
    parser.add_argument("--json", action="store_true", help="print the names as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    if not 0 < arguments.memory <= CMA_BYTES // MIB:
        raise UsageError(f"--memory must be 1 to {CMA_BYTES // MIB} MiB, not {arguments.memory}")
    require_pynq("ciuic board")
    from .pynq_server import BoardServer

    config = CONFIGS[arguments.config or arguments.board]
    folder = arguments.bitstream or Path(tempfile.mkdtemp(prefix="ciuic-board-"))
    folder.mkdir(parents=True, exist_ok=True)
    bitstream = write_bitstream(folder, arguments.board, config)
    with (
        Board(arguments.board, memory_bytes=arguments.memory * MIB) as board,
        BoardServer(board, arguments.host, arguments.port) as server,
    ):
        uri = f"fpga:pynq@{server.address}?bitstream={bitstream}"
        names = {"uri": uri, "address": server.address, "bitstream": str(bitstream)}
        try:
            print(json.dumps(names) if arguments.json else f"serving {uri}", flush=True)
            server.wait()
        except KeyboardInterrupt:
            return 0
    return 0
