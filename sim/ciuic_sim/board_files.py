"""The files of a simulated board that PYNQ.remote reads and writes, kept in memory.

Writing the name of a binary to the FPGA manager programs the board with it, as Linux does. Files
that a client leaves in the folder of the firmware or in ``/tmp`` stay until the board is switched
off; everything else is refused.
"""

from __future__ import annotations

from ciuic_host.pynq import SIMULATED

from ciuic.errors import DeviceError

from .board import Board
from .pynq_names import LINUX_MACHINES, PYNQ_NAMES

FIRMWARE = "/lib/firmware/"
MANAGER = "/sys/class/fpga_manager/fpga0/"
WRITABLE = (FIRMWARE, "/tmp/")


class BoardFiles:
    """Files of a board.

    Parameters
    ----------
    board
        The board that they describe and program.
    """

    def __init__(self, board: Board) -> None:
        self._board = board
        machine = LINUX_MACHINES[board.addresses.family]
        self._files = {
            "/proc/version": f"Linux version 6.6 ({machine}) simulated\n".encode(),
            "/proc/device-tree/chosen/pynq_board": PYNQ_NAMES[board.name].encode() + b"\0",
            SIMULATED: b"1\n",
            MANAGER + "state": b"unknown\n",
            MANAGER + "flags": b"0\n",
            MANAGER + "firmware": b"",
        }

    def exists(self, path: str) -> bool:
        """Return whether there is such a file."""
        return path == "/proc/meminfo" or path in self._files

    def read(self, path: str) -> bytes:
        """Return a file's contents; raise `KeyError` if there is none."""
        if path == "/proc/meminfo":
            total, free = self._board.memory_bytes, self._board.memory_bytes - self._board.used
            return f"CmaTotal: {total // 1024} kB\nCmaFree: {free // 1024} kB\n".encode()
        return self._files[path]

    def write(self, path: str, contents: bytes) -> None:
        """Write a file, and do what Linux does then.

        Raises
        ------
        DeviceError
            If the board cannot be programmed, or the file must not be written.
        """
        if not (path.startswith(WRITABLE) or path in (MANAGER + "flags", MANAGER + "firmware")):
            raise DeviceError(f"{self._board.name}: {path} must be one that may be written")
        self._files[path] = contents
        if path == MANAGER + "firmware":
            self._program(FIRMWARE + contents.decode().strip())

    def _program(self, path: str) -> None:
        self._files[MANAGER + "state"] = b"write error\n"
        if path not in self._files:
            raise DeviceError(f"{self._board.name}: {path} must be on the board to program it")
        self._board.program(self._files[path])
        self._files[MANAGER + "state"] = b"operating\n"
