"""The order in which the overlay streams weights.

A matrix (k, n) is cut into tiles of rows x cols. For each block of columns all tiles along K
follow each other, each tile row by row. This one stream is dealt out to the ports, a beat each in
turn, so that every port reads one contiguous stripe.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.abi import OverlayConfig
from ciuic.abi.numerics import W4_GROUP, W4_MAX, W4_MAX_K, W4_MIN
from ciuic.errors import ShapeError

Stripes = npt.NDArray[np.uint8]  # (ports, stripe_bytes)


def blocks(size: int, block: int) -> int:
    """Return how many blocks of ``block`` cover ``size``."""
    return -(-size // block)


def packed_nbytes(k: int, n: int, config: OverlayConfig, *, w4: bool = False) -> int:
    """Return the bytes of packed weights of shape (k, n), all stripes together."""
    tiles = blocks(k, config.rows)
    column_bytes = tiles * config.tile_bytes
    if w4:
        column_bytes = column_bytes // 2 + blocks(k, W4_GROUP) * config.scale_bytes
    return blocks(n, config.cols) * column_bytes


def pack_weights(weights: npt.NDArray[np.int8], config: OverlayConfig) -> Stripes:
    """Return INT8 weights (k, n) as stripes (ports, stripe_bytes), padded with zeros to tiles."""
    tiles = _tiles(weights, config)
    return _deal(tiles.view(np.uint8).reshape(-1), config)


def unpack_weights(
    packed: npt.NDArray[np.uint8], k: int, n: int, config: OverlayConfig
) -> npt.NDArray[np.int8]:
    """Return the weights (k, n) of stripes of any shape with the right number of bytes."""
    k_blocks, n_blocks = blocks(k, config.rows), blocks(n, config.cols)
    tiles = _gather(packed, config).view(np.int8)
    return _untile(tiles.reshape(n_blocks, k_blocks, config.rows, config.cols), k, n)


def pack_weights_w4(
    weights: npt.NDArray[np.int8], scales: npt.NDArray[np.int16], config: OverlayConfig
) -> Stripes:
    """Return INT4 weights (k, n) and scales (groups, n) as stripes (ports, stripe_bytes).

    Each group of `W4_GROUP` rows is its scales (INT16, padded to whole beats of all ports), then
    its tiles; of two neighbouring weights the first is in the low half of a byte.
    """
    tiles = _tiles(weights, config)
    n_blocks, k_blocks = tiles.shape[:2]
    groups = blocks(weights.shape[0], W4_GROUP)
    if not config.w4 or weights.shape[0] > W4_MAX_K:
        raise ShapeError(
            f"overlay {config.name!r} must take INT4 weights of up to {W4_MAX_K} rows "
            f"(it {'does' if config.w4 else 'does not'}), not {weights.shape[0]} rows"
        )
    if weights.min() < W4_MIN or weights.max() > W4_MAX:
        raise ShapeError(f"INT4 weights must be from {W4_MIN} to {W4_MAX}")
    if scales.shape != (groups, weights.shape[1]) or scales.dtype != np.int16:
        raise ShapeError(
            f"scales must be int16 {(groups, weights.shape[1])}, not {scales.dtype} {scales.shape}"
        )
    padded = np.zeros((groups, n_blocks * config.cols), np.int16)
    padded[:, : scales.shape[1]] = scales
    heads = np.zeros((n_blocks, groups, config.scale_bytes), np.uint8)
    block_scales = padded.reshape(groups, n_blocks, config.cols).transpose(1, 0, 2)
    heads[:, :, : config.cols * 2] = np.ascontiguousarray(block_scales).view(np.uint8)

    nibbles = tiles.view(np.uint8).reshape(n_blocks, k_blocks, -1) & 15
    bodies = nibbles[..., ::2] | nibbles[..., 1::2] << 4  # (n_blocks, k_blocks, tile_bytes / 2)
    per_group = W4_GROUP // config.rows
    parts = []
    for block in range(n_blocks):
        for group in range(groups):
            parts.append(heads[block, group])
            parts.append(bodies[block, group * per_group : (group + 1) * per_group].reshape(-1))
    return _deal(np.concatenate(parts), config)


def pack_keys(keys: npt.NDArray[np.int8], config: OverlayConfig) -> Stripes:
    """Return keys (n, k) as stripes (ports, stripe_bytes): a block of ``cols`` keys at a time.

    Another key changes bytes of the last block, or adds one; it moves nothing.
    """
    return pack_weights(np.ascontiguousarray(keys.T), config)


def pack_values(values: npt.NDArray[np.int8], config: OverlayConfig) -> Stripes:
    """Return values (n, d_v) as stripes (ports, stripe_bytes): a block of ``rows`` at a time.

    All tiles of a block of values follow each other, so that another one moves nothing.
    """
    tiles = _tiles(values, config)  # (n_blocks, k_blocks, rows, cols)
    return _deal(tiles.transpose(1, 0, 2, 3).reshape(-1).view(np.uint8), config)


def unpack_keys(
    packed: npt.NDArray[np.uint8], n: int, k: int, config: OverlayConfig
) -> npt.NDArray[np.int8]:
    """Return the keys (n, k) of stripes of `pack_keys`."""
    return np.ascontiguousarray(unpack_weights(packed, k, n, config).T)


def unpack_values(
    packed: npt.NDArray[np.uint8], n: int, d_v: int, config: OverlayConfig
) -> npt.NDArray[np.int8]:
    """Return the values (n, d_v) of stripes of `pack_values`."""
    blocks_n, blocks_d = blocks(n, config.rows), blocks(d_v, config.cols)
    tiles = _gather(packed, config).view(np.int8)
    shaped = tiles.reshape(blocks_n, blocks_d, config.rows, config.cols)
    return np.ascontiguousarray(_untile(shaped.transpose(1, 0, 2, 3), n, d_v))


def unpack_weights_w4(
    packed: npt.NDArray[np.uint8], k: int, n: int, config: OverlayConfig
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.int16]]:
    """Return the weights (k, n) and scales (groups, n) of stripes of `pack_weights_w4`."""
    stream = _gather(packed, config)
    k_blocks, n_blocks = blocks(k, config.rows), blocks(n, config.cols)
    groups, per_group = blocks(k, W4_GROUP), W4_GROUP // config.rows
    body_bytes = config.tile_bytes // 2
    stream = stream.reshape(n_blocks, -1)
    scales = np.zeros((groups, n_blocks, config.cols), np.int16)
    tiles = np.zeros((n_blocks, k_blocks, config.tile_bytes), np.int8)
    position = 0
    for group in range(groups):
        head = np.ascontiguousarray(stream[:, position : position + config.cols * 2])
        scales[group] = head.view(np.int16)
        position += config.scale_bytes
        for block in range(group * per_group, min((group + 1) * per_group, k_blocks)):
            body = stream[:, position : position + body_bytes]
            tiles[:, block, ::2] = (body << 4).view(np.int8) >> 4
            tiles[:, block, 1::2] = body.view(np.int8) >> 4
            position += body_bytes
    shaped = tiles.reshape(n_blocks, k_blocks, config.rows, config.cols)
    return _untile(shaped, k, n), scales.reshape(groups, -1)[:, :n]


def _tiles(weights: npt.NDArray[np.int8], config: OverlayConfig) -> npt.NDArray[np.int8]:
    """Return weights (k, n) as (n_blocks, k_blocks, rows, cols), in C order."""
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


def _untile(tiles: npt.NDArray[np.int8], k: int, n: int) -> npt.NDArray[np.int8]:
    n_blocks, k_blocks, rows, cols = tiles.shape
    return tiles.transpose(1, 2, 0, 3).reshape(k_blocks * rows, n_blocks * cols)[:k, :n]


def _deal(stream: npt.NDArray[np.uint8], config: OverlayConfig) -> Stripes:
    beats = stream.reshape(-1, config.ports, config.bus_bytes)
    return np.ascontiguousarray(beats.transpose(1, 0, 2)).reshape(config.ports, -1)


def _gather(packed: npt.NDArray[np.uint8], config: OverlayConfig) -> npt.NDArray[np.uint8]:
    beats = packed.view(np.uint8).reshape(config.ports, -1, config.bus_bytes)
    return np.ascontiguousarray(beats.transpose(1, 0, 2)).reshape(-1)
