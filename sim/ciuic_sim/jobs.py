"""Random descriptors for the bench of the overlay, with their operands in its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ciuic.abi import Flag, Format, Opcode
from ciuic.abi.numerics import SoftmaxScale
from ciuic.reference import pack_weights

from .overlay_bench import OverlayBench

Fields = dict[str, int]

DTYPES: dict[Format, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT16: np.int16,
    Format.INT8: np.int8,
}


def gemm(bench: OverlayBench, m: int, k: int, n: int) -> Fields:
    """Return a GEMM of random numbers, with random gaps between its rows."""
    a_stride, o_stride = _stride(bench, k), _stride(bench, 4 * n)
    weights = bench.rng.integers(-128, 128, (k, n), dtype=np.int8)
    return {
        "opcode": Opcode.GEMM,
        "tag": _tag(bench),
        "a_addr": bench.place(_noise(bench, m * a_stride)),
        "w_addr": bench.place(pack_weights(weights, bench.config)),
        "o_addr": bench.space(m * o_stride),
        "m": m,
        "k": k,
        "n": n,
        "a_stride": a_stride,
        "o_stride": o_stride,
    }


def softmax(
    bench: OverlayBench,
    rows: int,
    cols: int,
    *,
    in_format: Format = Format.INT32,
    out_format: Format = Format.Q0_16,
    causal: bool = False,
) -> Fields:
    """Return a softmax of random scores, with random gaps between its rows."""
    a_stride = _stride(bench, cols * in_format.nbytes)
    o_stride = _stride(bench, cols * out_format.nbytes)
    scores = _noise(bench, rows * a_stride).view(DTYPES[in_format])
    if in_format is Format.INT32:
        scores >>= 16  # otherwise one element has it all
    spread = float(bench.rng.uniform(1, 12)) / float(np.ptp(scores.astype(np.int64)) + 1)
    scale = SoftmaxScale.encode(spread)
    return {
        "opcode": Opcode.SOFTMAX,
        "flags": Flag.CAUSAL if causal else 0,
        "tag": _tag(bench),
        "a_addr": bench.place(scores),
        "o_addr": bench.space(rows * o_stride),
        "m": rows,
        "n": cols,
        "a_stride": a_stride,
        "o_stride": o_stride,
        "in_format": in_format,
        "out_format": out_format,
        "multiplier": scale.multiplier,
        "shift": scale.shift,
        "row_offset": int(bench.rng.integers(0, cols + 2)) if causal else 0,
    }


def copy(bench: OverlayBench, nbytes: int) -> Fields:
    """Return a copy of random bytes."""
    return {
        "opcode": Opcode.COPY,
        "tag": _tag(bench),
        "a_addr": bench.place(_noise(bench, nbytes)),
        "o_addr": bench.space(nbytes),
        "n": nbytes,
    }


def nop(bench: OverlayBench) -> Fields:
    """Return a descriptor that does nothing."""
    return {"opcode": Opcode.NOP, "tag": _tag(bench)}


def random_job(bench: OverlayBench) -> Fields:
    """Return any descriptor, of a size that a bench can simulate."""
    draw = bench.rng.integers
    kind = bench.rng.choice(["gemm", "softmax", "copy", "nop"], p=[0.4, 0.3, 0.2, 0.1])
    if kind == "gemm":
        return gemm(bench, *(int(draw(1, limit)) for limit in (20, 70, 30)))
    if kind == "softmax":
        return softmax(
            bench,
            int(draw(1, 6)),
            int(draw(1, 60)),
            in_format=list(DTYPES)[draw(3)],
            out_format=(Format.Q0_16, Format.Q0_8)[draw(2)],
            causal=bool(draw(2)),
        )
    return copy(bench, int(draw(1, 5000))) if kind == "copy" else nop(bench)


def _noise(bench: OverlayBench, nbytes: int) -> npt.NDArray[np.uint8]:
    return bench.rng.integers(0, 256, nbytes, dtype=np.uint8)


def _stride(bench: OverlayBench, row_bytes: int) -> int:
    step = bench.config.alignment
    return step * (-(-row_bytes // step) + int(bench.rng.integers(0, 3)))


def _tag(bench: OverlayBench) -> int:
    return int(bench.rng.integers(0, 1 << 16))
