"""How many cycles the overlay takes: one function for each engine.

Beats and busy cycles are exact. Cycles are those of the gateware behind a memory that answers a
read after `MEMORY_READ` cycles and a write after `MEMORY_WRITE`; tests hold them within 5 % of the
RTL. A model is short for what the engines do; where a constant is no latency, it is named for the
part of the gateware that it comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ciuic.abi import COMPLETION, DESCRIPTOR, Format, OverlayConfig

MEMORY_READ, MEMORY_WRITE = 20, 10  # cycles
FETCH = 5 + MEMORY_READ  # around the beats of a descriptor
COMPLETE = 24 + MEMORY_WRITE  # around the beats of a record
GEMM = 21 + MEMORY_READ + MEMORY_WRITE  # around the beats and rows of a GEMM
SOFTMAX = 46 + MEMORY_READ + MEMORY_WRITE  # ... of a softmax
SOFTMAX_TREE = 3  # for each doubling of the lanes
COPY = 10 + MEMORY_READ + MEMORY_WRITE  # ... of a copy
DRAIN_GAP = 3  # between two rows of results
WEIGHTS_AHEAD = 512  # beats of weights that may overtake the activations of the first tile
WEIGHTS_BURST = 256  # beats
ACTIVATIONS_QUEUE = 128  # beats
SOFTMAX_ROW = 2  # between two rows of scores, at least


@dataclass(frozen=True)
class Work:
    """What one descriptor costs: cycles, beats, and cycles in which its engine took data."""

    cycles: int
    beats_read: int = 0
    beats_written: int = 0
    busy: int = 0


def fetch(config: OverlayConfig) -> int:
    """Return the cycles from the doorbell until a descriptor has been read."""
    return FETCH + DESCRIPTOR.nbytes // config.bus_bytes


def complete(config: OverlayConfig) -> int:
    """Return the cycles from the end of an engine's work until its record is written."""
    return COMPLETE + COMPLETION.nbytes // config.bus_bytes


def gemm(config: OverlayConfig, descriptor: dict[str, int]) -> Work:
    """Return the work of a GEMM.

    Loading the first tile of rows comes before everything, draining the last block of columns after
    it. Between them blocks follow one another at the pace of the array, of the weights, which are
    read once for each tile, or of the drain; unless the bus cannot keep up with all of it.
    """
    m, k, n = (descriptor[name] for name in ("m", "k", "n"))
    k_blocks, n_blocks = _blocks(k, config.rows), _blocks(n, config.cols)
    tile_m = min(m, _tile_rows(config, k))
    tiles = _blocks(m, tile_m)
    edge_m = m - (tiles - 1) * tile_m
    row_beats = _blocks(k, config.bus_bytes)
    block_beats = k_blocks * config.tile_beats
    edge_columns = n - (n_blocks - 1) * config.cols
    full_row, edge_row = (_blocks(4 * c, config.bus_bytes) for c in (config.cols, edge_columns))
    activations = m * row_beats * (n_blocks if _sliced(config, k) else 1)
    weights = tiles * n_blocks * block_beats

    def pace(rows: int) -> int:
        """Return the cycles of all blocks of a tile of rows."""
        into_array = max(rows * k_blocks, block_beats)
        full, edge = (rows * (beats + DRAIN_GAP) for beats in (full_row, edge_row))
        return (n_blocks - 1) * max(into_array, full) + max(into_array, edge)

    overtaken = min(WEIGHTS_AHEAD, weights)
    if tile_m * row_beats <= ACTIVATIONS_QUEUE:  # a burst of weights between two requests, no more
        overtaken = min(overtaken, (tile_m - 1) * min(WEIGHTS_BURST, block_beats))
    start = tile_m * row_beats + overtaken
    end = min(edge_m * (edge_row + DRAIN_GAP), max(tile_m * k_blocks, block_beats))
    moved = start + (tiles - 1) * pace(tile_m) + pace(edge_m)
    return Work(
        cycles=GEMM + max(moved, activations + weights) + end,
        beats_read=activations + weights,
        beats_written=m * ((n_blocks - 1) * full_row + edge_row),
        busy=m * n_blocks * k_blocks,
    )


def softmax(
    config: OverlayConfig,
    lengths: npt.NDArray[np.int64],
    cols: int,
    in_format: Format,
    out_format: Format,
) -> Work:
    """Return the work of a softmax; only the ``lengths`` (rows,) valid elements are read.

    A row passes three stages one after the other: it comes in, it is exponentiated, it goes out.
    Rows follow one another at the pace of the slowest stage.
    """
    rows = lengths.size
    beats = -(-lengths * in_format.nbytes // config.bus_bytes)
    steps = -(-lengths // config.lanes)
    row_written = _blocks(cols * out_format.nbytes, config.bus_bytes)
    read, busy, written = int(beats.sum()), int(steps.sum()), rows * row_written
    longest = int(steps.max())
    stages = (  # cycles of all rows and of one row
        (max(read, busy, rows * SOFTMAX_ROW), max(int(beats.max()), longest)),
        (busy, longest),
        (max(written, busy), max(row_written, longest)),
    )
    slowest = max(range(len(stages)), key=lambda stage: stages[stage][0])
    others = sum(row for stage, (_, row) in enumerate(stages) if stage != slowest)
    start = SOFTMAX + SOFTMAX_TREE * (config.lanes.bit_length() - 1)
    return Work(start + stages[slowest][0] + others, read, written, busy)


def copy(config: OverlayConfig, nbytes: int) -> Work:
    """Return the work of a copy."""
    if nbytes == 0:
        return Work(1)
    beats = _blocks(nbytes, config.bus_bytes)
    return Work(COPY + beats, beats, beats, beats)


def _word_bytes(config: OverlayConfig) -> int:
    return max(config.rows, config.bus_bytes)


def _bank_words(config: OverlayConfig) -> int:
    return config.bank_words * config.rows // _word_bytes(config)


def _sliced(config: OverlayConfig, k: int) -> bool:
    """Whether a row of activations is longer than a bank, and so is read for each block."""
    return _blocks(k, _word_bytes(config)) > _bank_words(config)


def _tile_rows(config: OverlayConfig, k: int) -> int:
    """Return the rows of activations that a bank takes at a time."""
    rows, row_words = 1, _blocks(k, _word_bytes(config))
    while rows < config.accumulator_rows and 2 * rows * row_words <= _bank_words(config):
        rows *= 2
    return rows


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
