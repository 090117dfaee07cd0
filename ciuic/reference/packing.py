"""The order in which the overlay streams weights."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import OverlayConfig
from ciuic.errors import ShapeError


def blocks(size: int, block: int) -> int:
    """Return how many blocks of ``block`` cover ``size``."""
    return -(-size // block)


def packed_nbytes(k: int, n: int, config: OverlayConfig) -> int:
    """Return the bytes of packed weights of shape (k, n)."""
    return blocks(k, config.rows) * blocks(n, config.cols) * config.tile_bytes


def pack_weights(weights: npt.NDArray[np.int8], config: OverlayConfig) -> npt.NDArray[np.int8]:
    """Return weights (k, n) as (n_blocks, k_blocks, rows, cols), in C order, padded with zeros.

    That is the order in which the array consumes them: for each block of columns all tiles along
    K, each tile row by row, so that a whole matrix is one contiguous read.
    """
    if weights.ndim != 2 or weights.dtype != np.int8 or 0 in weights.shape:
        raise ShapeError(
            f"weights must be a non-empty INT8 matrix (k, n), not {weights.dtype} {weights.shape}"
        )
    k, n = weights.shape
    k_blocks, n_blocks = blocks(k, config.rows), blocks(n, config.cols)
    padded = np.zeros((k_blocks * config.rows, n_blocks * config.cols), np.int8)
    padded[:k, :n] = weights
    tiles = padded.reshape(k_blocks, config.rows, n_blocks, config.cols)
    return np.ascontiguousarray(tiles.transpose(2, 0, 1, 3))


def unpack_weights(
    packed: npt.NDArray[np.int8], k: int, n: int, config: OverlayConfig
) -> npt.NDArray[np.int8]:
    """Return the weights (k, n) of a packed array of any shape with the right number of bytes."""
    k_blocks, n_blocks = blocks(k, config.rows), blocks(n, config.cols)
    tiles = packed.reshape(n_blocks, k_blocks, config.rows, config.cols)
    flat = tiles.transpose(1, 2, 0, 3).reshape(k_blocks * config.rows, n_blocks * config.cols)
    return flat[:k, :n]
