"""The header of a Xilinx bitstream (``.bit``): which part it is for, and where its words begin.

The layout is that of every ``.bit`` that Vivado writes: a field of nine bytes, the number 1, then
fields with a letter and a length each: a (design), b (part), c (date), d (time), and e (the words,
to the end of the file). `pynq` reads the same fields before it programs a board.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ciuic.errors import OverlayMismatch, UsageError

FIRST = bytes.fromhex("0ff00ff00ff00ff000")
TEXTS = {"a": "design", "b": "part", "c": "date", "d": "time"}
WORD_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Bitfile:
    """A bitstream with its header.

    Parameters
    ----------
    design
        Name of the design and, behind semicolons, what the tool says of itself.
    part
        The part with its package, as ``7z020clg400``.
    date, time
        When it was made.
    data
        The words, most significant byte first.
    """

    design: str
    part: str
    date: str
    time: str
    data: bytes

    @classmethod
    def read(cls, path: Path) -> Bitfile:
        """Return the contents of a file.

        Raises
        ------
        UsageError
            If it cannot be read.
        OverlayMismatch
            If it is no bitstream, or was cut off.
        """
        try:
            contents = path.read_bytes()
        except OSError as error:
            raise UsageError(f"bitstream {path} must be a file that can be read: {error}") from None
        try:
            return cls._unpack(contents)
        except (struct.error, IndexError, KeyError, UnicodeDecodeError, ValueError):
            raise OverlayMismatch(
                f"bitstream {path}", expected="a whole .bit file", found="something else"
            ) from None

    @classmethod
    def _unpack(cls, contents: bytes) -> Bitfile:
        position = 2 + len(FIRST)
        if contents[:position] != struct.pack(">H", len(FIRST)) + FIRST:
            raise ValueError
        position += 2
        texts: dict[str, str] = {}
        while (key := chr(contents[position])) != "e":
            (length,) = struct.unpack_from(">H", contents, position + 1)
            start = position + 3
            position = start + length
            texts[TEXTS[key]] = contents[start:position].decode("ascii").rstrip("\0")
        (length,) = struct.unpack_from(">I", contents, position + 1)
        data = contents[position + 5 :]
        if len(data) != length or length % WORD_BYTES or set(texts) != set(TEXTS.values()):
            raise ValueError
        return cls(**texts, data=data)

    def binary(self) -> bytes:
        """Return the words with the bytes of each reversed, as processors load them."""
        return np.frombuffer(self.data, "u4").byteswap().tobytes()

    def pack(self) -> bytes:
        """Return the contents of the file."""
        parts = [struct.pack(">H", len(FIRST)), FIRST, struct.pack(">H", 1)]
        for key, name in TEXTS.items():
            text = getattr(self, name).encode("ascii") + b"\0"
            parts += [key.encode(), struct.pack(">H", len(text)), text]
        return b"".join([*parts, b"e", struct.pack(">I", len(self.data)), self.data])
