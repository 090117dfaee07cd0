"""A cache of keys and values on disk: written whole or not at all, refused unless it is intact.

The file is in safetensors form (https://github.com/huggingface/safetensors): the token ids, the
two arrays of each layer, the fingerprint of the model that made them, and last the SHA-256 of all
bytes before it, so that a byte that changed anywhere is noticed.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ciuic.errors import ModelFormatError

DIGEST_NBYTES = hashlib.sha256().digest_size
# Tensors of bytes come last in a safetensors file, in the order of their names.
CHECKSUM, FINGERPRINT, TOKEN_IDS = "sha256", "fingerprint", "token_ids"
HEADER_NBYTES = 4096  # at most, beside what the header says of the layers
LAYER_HEADER_NBYTES = 512

LayerArrays = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""What a layer holds of n tokens: float32 (n, ...) twice."""


def write_cache(
    path: str | Path, fingerprint: str, token_ids: Sequence[int], layers: Sequence[LayerArrays]
) -> None:
    """Write a cache.

    Parameters
    ----------
    fingerprint
        Of the model: SHA-256 in hexadecimal digits.
    token_ids
        The n tokens that are in the cache.
    layers
        What each layer holds of them.
    """
    from safetensors.numpy import save

    tensors: dict[str, npt.NDArray[np.generic]] = {
        TOKEN_IDS: np.array(token_ids, np.int32),
        FINGERPRINT: np.frombuffer(bytes.fromhex(fingerprint), np.uint8),
        CHECKSUM: np.zeros(DIGEST_NBYTES, np.uint8),
    }
    for index, arrays in enumerate(layers):
        for part, array in enumerate(arrays):
            tensors[_name(index, part)] = np.ascontiguousarray(array)
    content = memoryview(save(tensors))[:-DIGEST_NBYTES]
    path = Path(path)
    draft = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with draft.open("wb") as file:
            file.write(content)
            file.write(hashlib.sha256(content).digest())
        draft.replace(path)
    except OSError as error:
        raise ModelFormatError(path, f"cannot be written ({error.strerror})") from error
    finally:
        draft.unlink(missing_ok=True)


def read_cache(
    path: str | Path,
    fingerprint: str,
    *,
    n_layers: int,
    slot_shapes: Sequence[tuple[int, ...]],
    max_seq_len: int,
) -> tuple[list[int], list[LayerArrays]]:
    """Return the token ids and the layers' arrays of a cache that the same model made.

    Raises
    ------
    ModelFormatError
        If the file is missing, broken, or of another model.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    content = _content(path, _largest(n_layers, slot_shapes, max_seq_len))
    try:
        tensors = load(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ModelFormatError(path, f"not a cache of tokens ({error})") from error
    found = tensors.get(FINGERPRINT)
    if found is None or found.tobytes().hex() != fingerprint:
        raise ModelFormatError(
            path,
            "made by another model, or by this one with other weights, quantization or layers on "
            "an FPGA; delete it to make a new one",
        )
    ids = tensors.get(TOKEN_IDS, np.zeros(0))
    if ids.dtype != np.int32 or ids.ndim != 1 or not 1 <= len(ids) <= max_seq_len:
        raise ModelFormatError(path, f"{TOKEN_IDS} must be 1 to {max_seq_len} INT32 numbers")
    layers = []
    for index in range(n_layers):
        arrays = [tensors.get(_name(index, part), np.zeros(0)) for part in range(2)]
        for array, shape in zip(arrays, slot_shapes, strict=True):
            if array.dtype != np.float32 or array.shape != (len(ids), *shape):
                raise ModelFormatError(
                    path, f"layer {index} must hold float32 {(len(ids), *shape)}"
                )
        layers.append((arrays[0], arrays[1]))
    return ids.tolist(), layers


def _name(layer: int, part: int) -> str:
    return f"layers.{layer}.{part}"


def _largest(n_layers: int, slot_shapes: Sequence[tuple[int, ...]], max_seq_len: int) -> int:
    """Return the bytes of the largest file that there can be."""
    slot = 4 * sum(int(np.prod(shape)) for shape in slot_shapes)
    return (
        HEADER_NBYTES
        + 2 * DIGEST_NBYTES
        + 4 * max_seq_len
        + n_layers * (LAYER_HEADER_NBYTES + max_seq_len * slot)
    )


def _content(path: Path, largest: int) -> bytes:
    """Return the bytes of a file whose checksum holds."""
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise ModelFormatError(path, f"cannot be read ({error.strerror})") from error
    if len(content) > largest:
        raise ModelFormatError(path, f"must have at most {largest:,} bytes for this model")
    body = memoryview(content)[:-DIGEST_NBYTES]
    if hashlib.sha256(body).digest() != content[-DIGEST_NBYTES:]:
        raise ModelFormatError(path, "not a whole cache of tokens: its checksum does not hold")
    return content
