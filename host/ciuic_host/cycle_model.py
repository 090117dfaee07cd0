"""How many cycles the overlay takes: one function for each engine.

An engine is bound by what moves most: beats on the read channel, beats on the write channel, or
rows through the array. The constants are latencies that nothing hides.
"""

from __future__ import annotations

from dataclasses import dataclass

from ciuic.abi import COMPLETION, DESCRIPTOR, Format, OverlayConfig

READ_LATENCY = 24  # from a request to its first beat, memory included
WRITE_LATENCY = 24  # from the last beat to its acknowledgement
FETCH_CYCLES = 8  # around the beats of a descriptor
COMPLETE_CYCLES = 8  # around the beats of a record
SOFTMAX_PIPELINE = 40  # from a row's last element to its first result


@dataclass(frozen=True)
class Work:
    """What one descriptor costs: cycles, beats, and cycles in which its engine took data."""

    cycles: int
    beats_read: int = 0
    beats_written: int = 0
    busy: int = 0


def overhead(config: OverlayConfig) -> tuple[int, int]:
    """Return the cycles to fetch a descriptor and to write its completion record."""
    fetch = READ_LATENCY + FETCH_CYCLES + DESCRIPTOR.nbytes // config.bus_bytes
    complete = WRITE_LATENCY + COMPLETE_CYCLES + COMPLETION.nbytes // config.bus_bytes
    return fetch, complete


def gemm(config: OverlayConfig, m: int, k: int, n: int) -> Work:
    """Return the work of a GEMM; weights are read once for each tile of rows."""
    k_blocks, n_blocks = _blocks(k, config.rows), _blocks(n, config.cols)
    tile_m = gemm_tile_rows(config, k)
    m_tiles = _blocks(m, tile_m)
    sliced = gemm_row_words(config, k) > gemm_bank_words(config)
    row_beats = _blocks(k, config.bus_bytes)
    activation_beats = m * row_beats * (n_blocks if sliced else 1)
    weight_beats = m_tiles * n_blocks * k_blocks * config.tile_beats
    written = m * (n_blocks - 1) * (4 * config.cols // config.bus_bytes) + m * _blocks(
        4 * (n - (n_blocks - 1) * config.cols), config.bus_bytes
    )
    busy = m * k_blocks * n_blocks
    read = activation_beats + weight_beats
    start = READ_LATENCY + min(m, tile_m) * row_beats + config.tile_beats
    end = config.rows + config.cols + min(m, tile_m) * (4 * config.cols // config.bus_bytes)
    cycles = start + max(read - start, busy, written) + end + WRITE_LATENCY
    return Work(cycles, read, written, busy)


def gemm_bank_words(config: OverlayConfig) -> int:
    """Return the words of a bank of the activation scratchpad."""
    return config.bank_words * config.rows // max(config.rows, config.bus_bytes)


def gemm_row_words(config: OverlayConfig, k: int) -> int:
    """Return the words of the scratchpad that a row of activations takes."""
    return _blocks(k, max(config.rows, config.bus_bytes))


def gemm_tile_rows(config: OverlayConfig, k: int) -> int:
    """Return the rows of activations that a bank of the scratchpad takes at a time."""
    rows = 1
    words, row_words = gemm_bank_words(config), gemm_row_words(config, k)
    while rows < config.accumulator_rows and 2 * rows * row_words <= words:
        rows *= 2
    return rows


def softmax(
    config: OverlayConfig, rows: int, cols: int, in_format: Format, out_format: Format
) -> Work:
    """Return the work of a softmax over rows."""
    read = rows * _blocks(cols * in_format.nbytes, config.bus_bytes)
    written = rows * _blocks(cols * out_format.nbytes, config.bus_bytes)
    busy = rows * _blocks(cols, config.lanes)
    first_row = busy // rows + SOFTMAX_PIPELINE
    cycles = READ_LATENCY + max(read, written, busy) + 2 * first_row + WRITE_LATENCY
    return Work(cycles, read, written, busy)


def copy(config: OverlayConfig, nbytes: int) -> Work:
    """Return the work of a copy."""
    if nbytes == 0:
        return Work(2)
    beats = _blocks(nbytes, config.bus_bytes)
    return Work(READ_LATENCY + beats + WRITE_LATENCY, beats, beats, beats)


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
