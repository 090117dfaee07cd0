"""Bitstreams of simulated boards: a header as Vivado's, and in place of the words what to simulate.

With the handoff file beside it, as `pynq.Overlay` wants them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from ciuic_host.bitfile import WORD_BYTES, Bitfile

from ciuic.abi import OverlayConfig, registers
from ciuic.errors import DeviceError

MARK = b"simulated by ciuic: "


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a simulated board is programmed with.

    Parameters
    ----------
    part
        The part that the bitstream is for.
    config
        The overlay.
    handoff
        SHA-256 of the ``.hwh``: `pynq` takes two bitstreams for one whose bytes are the same.
    abi_version
        What its register of that name answers.
    """

    part: str
    config: OverlayConfig
    handoff: str
    abi_version: int = registers.ABI_VERSION_VALUE

    def words(self) -> bytes:
        """Return the words of the bitstream."""
        text = MARK + json.dumps(asdict(self), sort_keys=True).encode()
        return text.ljust(-(-len(text) // WORD_BYTES) * WORD_BYTES)

    @classmethod
    def of_binary(cls, data: bytes) -> Contents:
        """Return what words say, each with its bytes reversed as the processors load them.

        Raises
        ------
        DeviceError
            If they are not those of a simulated board.
        """
        words = np.frombuffer(data[: len(data) // WORD_BYTES * WORD_BYTES], "u4")
        text = words.byteswap().tobytes()
        if not text.startswith(MARK):
            raise DeviceError("a simulated board must be programmed with a simulated bitstream")
        found: dict[str, Any] = json.loads(text.removeprefix(MARK))
        return cls(**{**found, "config": OverlayConfig(**found["config"])})


def write_bitstream(
    folder: Path,
    board: str,
    config: OverlayConfig,
    *,
    abi_version: int = registers.ABI_VERSION_VALUE,
) -> Path:
    """Write a ``.bit`` and its ``.hwh`` into a folder and return the path of the first.

    Parameters
    ----------
    folder
        Where to.
    board
        The board that it is for, of `ciuic.abi.ADDRESS_MAPS`.
    config
        The overlay.
    abi_version
        What the overlay says of itself.
    """
    from ciuic_hw.build.boards import BOARDS
    from ciuic_hw.build.hwh import hwh_text

    part = BOARDS[board].part
    handoff = hwh_text(BOARDS[board], config)
    contents = Contents(
        part=part,
        config=config,
        handoff=sha256(handoff.encode()).hexdigest(),
        abi_version=abi_version,
    )
    file = Bitfile(
        design="ciuic;UserID=0XFFFFFFFF;Version=simulated",
        part=part,
        date="1970/01/01",  # the same contents have the same hash
        time="00:00:00",
        data=contents.words(),
    )
    # PYNQ.remote sends a bitstream only if the board has none of its name.
    digest = sha256(file.data).hexdigest()[:12]
    path = folder / f"ciuic-{board}-{config.name}-{digest}.bit"
    path.with_suffix(".hwh").write_text(handoff)
    path.write_bytes(file.pack())
    return path
