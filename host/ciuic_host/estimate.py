"""What tasks of the FPGA device take on a board: cycles of its descriptors, bytes of staging.

Seconds are the overlay's, at the clock of its configuration; the model of its cycles is
`cycle_model`. What the driver computes on the host is told apart, as its speed is not the
overlay's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ciuic.abi import Format, OverlayConfig
from ciuic.devices import Estimate

from . import attention, cycle_model, gemm_cycles
from .gemm_cycles import Job
from .memory_timing import MemoryTiming
from .staging import staging_bytes

Shape = tuple[int, ...]
SCORES, FRACTIONS = Format.INT32, Format.Q0_16  # of `ciuic.ops.softmax`, through the engine
INT32_NBYTES = 4


def estimate(
    config: OverlayConfig,
    timing: MemoryTiming,
    op: str,
    inputs: Sequence[Shape],
    attributes: Mapping[str, Any],
) -> Estimate | None:
    """Return what a task takes of an overlay; None if the overlay has no kernel for it."""
    if op in ("linear", "linear_int4"):
        (m, k), n = inputs[0], inputs[1][-1]
        job = Job(m=m, k=k, n=n, w4=op == "linear_int4")
        cycles = _alone(config, timing, gemm_cycles.spans(config, timing, (job,))[0].finished)
        return Estimate(cycles / config.clock_hz)
    if op == "softmax":
        lengths = np.full(inputs[0][0], inputs[0][1])
        cycles = _softmax_cycles(config, timing, lengths, inputs[0][1])
        return Estimate(cycles / config.clock_hz)
    if op == "kv_append":
        return Estimate(0.0, products_on_host=True)  # written on the host; packed with attention
    if op not in ("attention", "latent_attention"):
        return None
    t, heads = inputs[0][:2]
    visible = attributes["offset"] + t
    if config.attention and attributes.get("softmax") != "q16":
        cycles = _attention_cycles(config, timing, _heads(op, inputs), t, visible)
        # The latent form brings queries to the latents, and results back, on the host.
        return Estimate(cycles / config.clock_hz, products_on_host=op == "latent_attention")
    if t == 1:  # one descriptor, its rows are the heads
        cycles = _softmax_cycles(config, timing, np.full(heads, visible), visible)
    else:  # one for each head, its rows are the tokens
        lengths = np.arange(visible - t + 1, visible + 1)
        cycles = heads * _softmax_cycles(config, timing, lengths, visible)
    return Estimate(cycles / config.clock_hz, products_on_host=True)


def task_staging_bytes(config: OverlayConfig, op: str, inputs: Sequence[Shape]) -> int:
    """Return the bytes of the buffer that a task's operands and results cross in.

    Where the overlay computes only the softmax of attention, scores are as long as the longest row
    that its engine takes.
    """
    if op in ("linear", "linear_int4"):
        (m, k), n = inputs[0], inputs[1][-1]
        return staging_bytes(config.alignment, (m, k), (m, n * INT32_NBYTES))
    if op == "softmax":
        rows, cols = inputs[0]
    elif op in ("attention", "latent_attention") and config.attention:
        one = _heads(op, inputs)
        m = inputs[0][0] * one.group
        operands = [
            shape
            for part in attention.parts(config, m, one.k, one.d_v)
            for shape in attention.shapes(part.stop - part.start, one.k, one.d_v)
        ]
        return staging_bytes(config.alignment, *operands * one.kv_heads)
    elif op in ("attention", "latent_attention"):
        t, heads = inputs[0][:2]
        slots = inputs[1 if op == "attention" else 2][0]
        rows, cols = (heads if t == 1 else t), min(slots, config.max_row)
    else:
        return 0
    return staging_bytes(
        config.alignment, (rows, cols * SCORES.nbytes), (rows, cols * FRACTIONS.nbytes)
    )


class _Heads(NamedTuple):
    """How many heads of keys, heads of queries that share one, widths of a key and a value."""

    kv_heads: int
    group: int
    k: int
    d_v: int


def _heads(op: str, inputs: Sequence[Shape]) -> _Heads:
    heads = inputs[0][1]
    if op == "attention":
        _, kv_heads, width = inputs[1]
        return _Heads(kv_heads, heads // kv_heads, width, width)
    rank, rope = inputs[2][1], inputs[3][1]
    return _Heads(1, heads, rank + rope, rank)


def _attention_cycles(
    config: OverlayConfig, timing: MemoryTiming, heads: _Heads, t: int, visible: int
) -> int:
    lengths = np.tile(np.arange(visible - t + 1, visible + 1), heads.group)
    works = [
        cycle_model.attention(
            config,
            timing,
            part.stop - part.start,
            heads.k,
            attention.keys_read(lengths[part]),
            heads.d_v,
        )
        for part in attention.parts(config, len(lengths), heads.k, heads.d_v)
    ] * heads.kv_heads
    cycles = works[0].cycles + sum(work.following or work.cycles for work in works[1:])
    return _alone(config, timing, cycles)


def _softmax_cycles(
    config: OverlayConfig, timing: MemoryTiming, lengths: npt.NDArray[np.int64], cols: int
) -> int:
    work = cycle_model.softmax(config, timing, lengths, cols, SCORES, FRACTIONS)
    return _alone(config, timing, work.cycles)


def _alone(config: OverlayConfig, timing: MemoryTiming, cycles: int) -> int:
    """Return the cycles from the doorbell to the record of a descriptor that takes ``cycles``."""
    return cycle_model.fetch(config, timing) + cycles + cycle_model.complete(config, timing)
