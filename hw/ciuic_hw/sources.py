"""Identity of the gateware: a hash over its sources and the contract they read."""

from hashlib import sha256
from pathlib import Path

import ciuic.abi
from ciuic.abi import boards

__all__ = ["build_hash"]


def build_hash() -> int:
    """Return the first 32 bits of the SHA-256 over the gateware's and the contract's sources."""
    digest = sha256()
    for root in (Path(__file__).parent, Path(ciuic.abi.__file__).parent):
        for path in sorted(root.rglob("*.py")):
            if path.name.startswith("hls_") or "build" in path.relative_to(root).parts:
                continue  # neither HLS kernels nor the tools' flow are part of this gateware
            if path == Path(boards.__file__):
                continue  # the gateware is the same wherever it is
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return int.from_bytes(digest.digest()[:4], "big")
