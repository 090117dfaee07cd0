"""How many cycles the overlay takes: one function for each engine.

Beats and busy cycles are exact. Cycles are those of the gateware behind a memory of a given timing;
tests hold them within 2 % of the RTL on usual shapes, 5 % where rows are short; `ciuic bench model`
shows all cases of the benches and the worst. A model is short for what the engines do; where a
constant is no latency, it is named for the part of the gateware that it comes from. What the GEMM
engine does in detail is in `gemm_cycles`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import ATTENTION_ROW, COMPLETION, DESCRIPTOR, Format, OverlayConfig
from ciuic.reference import packed_nbytes

from . import gemm_cycles
from .gemm_cycles import Job, Shape
from .memory_timing import MemoryTiming

FETCH = 17  # from the doorbell to the start of a descriptor, around its beats
COMPLETE = 23  # from the end of a descriptor to the interrupt, around the beats of its record
SOFTMAX = 92  # around the stages of a softmax
SOFTMAX_READ = 8  # around the latency of its scores
SOFTMAX_TREE = 4  # for each doubling of the lanes
SOFTMAX_ROW = 6  # between the requests of the scores of two rows
SOFTMAX_RESULT = 4  # between those of the results of two rows
SOFTMAX_NEXT = 12  # from a softmax's last row to the next one's first
ATTENTION = 83  # around the stages of an attention
ATTENTION_PHASE = 2  # between two phases of an attention
ATTENTION_ROWS = 4  # between the requests of two queries, and between two blocks of columns
ATTENTION_ROW_GAP = 2  # for each query of a job that follows none, beside its beats: one to three
ATTENTION_REST = 7  # between two blocks of scores on the lanes
ATTENTION_LANES = 56  # from the last scores of a block to its first probabilities in the array
LENGTHS = 18  # around the latency of the lengths of rows
LENGTH_BYTES = 4  # of the length of a row in memory
COPY = 21  # around the beats of a copy


@dataclass(frozen=True)
class Work:
    """What one descriptor costs: cycles, beats, and cycles in which its engine took data.

    ``following`` is the cycles if its engine still works at one that needs no result of it.
    """

    cycles: int
    beats_read: int = 0
    beats_written: int = 0
    busy: int = 0
    following: int | None = None


def fetch(config: OverlayConfig, timing: MemoryTiming) -> int:
    """Return the cycles from the doorbell until a descriptor is started."""
    beats = DESCRIPTOR.nbytes // config.bus_bytes
    return round(FETCH + timing.read_latency + beats * timing.beat)


def complete(config: OverlayConfig, timing: MemoryTiming) -> int:
    """Return the cycles from the end of an engine's work until the interrupt of its record."""
    beats = COMPLETION.nbytes // config.bus_bytes
    return round(COMPLETE + timing.write_latency + beats * timing.beat)


@lru_cache(maxsize=1024)
def gemm(config: OverlayConfig, timing: MemoryTiming, job: Job) -> Work:
    """Return the work of a GEMM that is alone in the engine."""
    shape = Shape(config, job)
    span = gemm_cycles.spans(config, timing, (job,))[0]
    tiles = len(shape.tiles)
    weights = packed_nbytes(job.k, job.n, config, w4=job.w4) // config.bus_bytes
    row_beats = -(-job.k // config.bus_bytes)
    activations = job.m * row_beats * (shape.n_blocks if shape.sliced else 1)
    written = sum(shape.row_beats(block) for block in range(shape.n_blocks))
    parameters = sum(shape.extra_reads(block, 0) for block in range(shape.n_blocks))
    return Work(
        cycles=span.finished - span.started,
        beats_read=tiles * (weights + parameters) + activations + job.residual * job.m * written,
        beats_written=job.m * written,
        busy=job.m * shape.n_blocks * shape.k_blocks,
    )


def softmax(
    config: OverlayConfig,
    timing: MemoryTiming,
    lengths: npt.NDArray[np.int64],
    cols: int,
    in_format: Format,
    out_format: Format,
    *,
    listed: bool = False,
) -> Work:
    """Return the work of a softmax; only the ``lengths`` (rows,) valid elements are read.

    A row passes three stages one after the other: it comes in, it is exponentiated, it goes out.
    Rows follow one another, those of the next descriptor too; but its own record and the
    descriptors to come take beats. With ``listed`` the lengths are read first.
    """
    rows = lengths.size
    beats = -(-lengths * in_format.nbytes // config.bus_bytes)
    steps = np.maximum(1, -(-lengths // config.lanes))
    row_written = _blocks(cols * out_format.nbytes, config.bus_bytes)
    read, busy, written = int(beats.sum()), int(steps.sum()), rows * row_written
    beat = timing.beat
    requested = _leave(np.zeros(rows), np.where(beats > 0, SOFTMAX_ROW, 0)) - SOFTMAX_ROW
    arrived = _leave(requested, np.maximum(beats * beat, steps))
    exponentiated = _leave(arrived, steps)
    words = _blocks(cols, config.lanes)
    gone = _leave(exponentiated, np.full(rows, max(row_written * beat, words, SOFTMAX_RESULT)))
    start = SOFTMAX + SOFTMAX_TREE * (config.lanes.bit_length() - 1)
    start += timing.write_latency + (SOFTMAX_READ + timing.read_latency if read else 0)
    lengths_read = _blocks(LENGTH_BYTES * rows, config.bus_bytes) if listed else 0
    if listed:
        start += LENGTHS + timing.read_latency
    following = max(
        (read + lengths_read + DESCRIPTOR.nbytes // config.bus_bytes) * beat,
        rows * SOFTMAX_ROW,
        max((written + COMPLETION.nbytes // config.bus_bytes) * beat, rows * words) + SOFTMAX_NEXT,
    )
    return Work(
        round(start + float(gone[-1])),
        read + lengths_read,
        written,
        busy,
        round(following),
    )


def attention(
    config: OverlayConfig, timing: MemoryTiming, m: int, k: int, n: int, d_v: int
) -> Work:
    """Return the work of an attention of m queries.

    Queries are read, then blocks of keys pass the array, a tile in the time of its rows or of its
    beats, then results are written; all that of neighbouring jobs overlaps.
    """
    query_tiles, value_blocks = _blocks(k, config.rows), _blocks(d_v, config.cols)
    key_blocks = _blocks(n, config.cols)
    tiles = key_blocks * (query_tiles + value_blocks)
    query_beats = _blocks(k, config.bus_bytes)
    records = _blocks(m * ATTENTION_ROW.nbytes, config.bus_bytes)
    read = tiles * (config.tile_bytes // config.bus_bytes) + m * query_beats + records
    row_written = _blocks(2 * d_v, config.bus_bytes)
    beat = timing.beat

    tile_beats = config.tile_beats * beat
    phases = [
        max(count * m + ATTENTION_PHASE, count * tile_beats)
        for count in (query_tiles, value_blocks)
    ]
    lanes = m * (config.cols // config.lanes) + ATTENTION_REST
    block = max(sum(phases), lanes)
    queries = m * max(query_beats * beat, ATTENTION_ROWS)
    results = m * max(row_written * beat, value_blocks * ATTENTION_ROWS)
    through = lanes + ATTENTION_LANES  # from a block's scores to its probabilities
    hidden = phases[0] if key_blocks > 1 else 0  # behind the next block's scores
    cycles = (
        ATTENTION
        + timing.read_latency
        + timing.write_latency
        + queries
        + m * ATTENTION_ROW_GAP
        + (tile_beats if m > tile_beats else 0)
        + key_blocks * block
        + max(0.0, through - hidden)
        + results
    )
    following = max(
        key_blocks * block,
        tiles * tile_beats
        + (m * query_beats + records + DESCRIPTOR.nbytes // config.bus_bytes) * beat,
        results,
    )
    return Work(round(cycles), read, m * row_written, m * tiles, round(following))


def copy(config: OverlayConfig, timing: MemoryTiming, nbytes: int) -> Work:
    """Return the work of a copy."""
    if nbytes == 0:
        return Work(1)
    beats = _blocks(nbytes, config.bus_bytes)
    latency = COPY + timing.read_latency + timing.write_latency
    return Work(round(latency + beats * timing.beat), beats, beats, beats)


def _leave(arrivals: npt.NDArray[Any], cycles: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return when rows leave a stage that takes one after the other, ``cycles`` (rows,) each."""
    total = np.cumsum(cycles, dtype=np.float64)
    return total + np.maximum.accumulate(arrivals - (total - cycles))


def _blocks(size: int, block: int) -> int:
    return -(-size // block)
