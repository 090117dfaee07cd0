"""Fingerprints: whether what was computed with a model can be used with this one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

WHOLE_NBYTES = 64 << 20  # weights up to this size are read whole
BLOCK_NBYTES = 64 << 10  # of larger ones a block of this size at even distances
BLOCKS = WHOLE_NBYTES // BLOCK_NBYTES


def weights_digest(path: Path) -> bytes:
    """Return the SHA-256 of a model's weights: of all bytes, or of a sample of large files.

    The sample is `BLOCKS` blocks spread evenly over the files, and the files' names and sizes. The
    weights of another training differ in every block; a change of a few bytes between two blocks
    is not noticed.

    Parameters
    ----------
    path
        A file, or a folder with safetensors files.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    sizes = [file.stat().st_size for file in files]
    digest = hashlib.sha256()
    stride = max(sum(sizes) // BLOCKS, BLOCK_NBYTES)
    for file, nbytes in zip(files, sizes, strict=True):
        digest.update(f"{file.name if path.is_dir() else ''}:{nbytes}:".encode())
        for block in _blocks(file, nbytes, stride):
            digest.update(block)
    return digest.digest()


def _blocks(path: Path, nbytes: int, stride: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        for start in range(0, nbytes, stride):
            file.seek(start)
            yield file.read(BLOCK_NBYTES)
