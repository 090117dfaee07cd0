"""What tasks of the FPGA device take on a board: cycles of its descriptors, bytes of staging.

Seconds are the overlay's, at the clock of its configuration; the model of its cycles is
`cycle_model`. What the driver computes on the host is told apart, as its speed is not the
overlay's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import Format, OverlayConfig
from ciuic.devices import Estimate

from . import cycle_model, gemm_cycles
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
    if op not in ("attention", "latent_attention"):
        return None
    t, heads = inputs[0][:2]
    visible = attributes["offset"] + t
    if t == 1:  # one descriptor, its rows are the heads
        cycles = _softmax_cycles(config, timing, np.full(heads, visible), visible)
    else:  # one for each head, its rows are the tokens
        lengths = np.arange(visible - t + 1, visible + 1)
        cycles = heads * _softmax_cycles(config, timing, lengths, visible)
    return Estimate(cycles / config.clock_hz, products_on_host=True)


def task_staging_bytes(config: OverlayConfig, op: str, inputs: Sequence[Shape]) -> int:
    """Return the bytes of the buffer that a task's operands and results cross in.

    The scores of attention are as long as the longest row that the engine takes.
    """
    if op in ("linear", "linear_int4"):
        (m, k), n = inputs[0], inputs[1][-1]
        return staging_bytes(config.alignment, (m, k), (m, n * INT32_NBYTES))
    if op == "softmax":
        rows, cols = inputs[0]
    elif op in ("attention", "latent_attention"):
        t, heads = inputs[0][:2]
        slots = inputs[1 if op == "attention" else 2][0]
        rows, cols = (heads if t == 1 else t), min(slots, config.max_row)
    else:
        return 0
    return staging_bytes(
        config.alignment, (rows, cols * SCORES.nbytes), (rows, cols * FRACTIONS.nbytes)
    )


def _softmax_cycles(
    config: OverlayConfig, timing: MemoryTiming, lengths: npt.NDArray[np.int64], cols: int
) -> int:
    work = cycle_model.softmax(config, timing, lengths, cols, SCORES, FRACTIONS)
    return _alone(config, timing, work.cycles)


def _alone(config: OverlayConfig, timing: MemoryTiming, cycles: int) -> int:
    """Return the cycles from the doorbell to the record of a descriptor that takes ``cycles``."""
    return cycle_model.fetch(config, timing) + cycles + cycle_model.complete(config, timing)
