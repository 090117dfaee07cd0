"""Random descriptors for benches, with their operands in the bench's memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ciuic.abi import ATTENTION_ROW, PARAMETERS, Flag, Format, Opcode, OverlayConfig
from ciuic.abi.numerics import (
    INT8_MAX,
    INT8_MIN,
    INT32_MAX,
    INT32_MIN,
    W4_GROUP,
    W4_MAX,
    W4_MIN,
    W4_SCALE_BITS,
    SoftmaxScale,
)
from ciuic.reference import pack_keys, pack_values, pack_weights, pack_weights_w4

Fields = dict[str, int]

DTYPES: dict[Format, type[np.signedinteger[Any]]] = {
    Format.INT32: np.int32,
    Format.INT16: np.int16,
    Format.INT8: np.int8,
}


class MemoryBench(Protocol):
    """A bench with a memory in which operands can be placed."""

    config: OverlayConfig
    rng: np.random.Generator

    def space(self, nbytes: int) -> int:
        """Return the address of bytes that nothing else uses."""
        ...

    def place(self, array: npt.NDArray[Any]) -> int:
        """Write an array's bytes somewhere; return their address."""
        ...


def gemm(bench: MemoryBench, m: int, k: int, n: int) -> Fields:
    """Return a plain GEMM of random numbers, with random gaps between its rows."""
    return gemm_fields(bench, (m, k, n))


def gemm_fields(
    bench: MemoryBench,
    shape: tuple[int, int, int],
    *,
    w4: bool = False,
    parameters: bool = False,
    residual: bool = False,
    requantize: bool = False,
    corner: int | None = None,
) -> Fields:
    """Return a GEMM with the given options; its numbers are random, or all ``corner``."""
    m, k, n = shape
    rng, element = bench.rng, 1 if requantize else 4
    a_stride, o_stride = _stride(bench, k), _stride(bench, element * n)
    fields = {"opcode": Opcode.GEMM, "tag": _tag(bench), "m": m, "k": k, "n": n}
    fields["out_format"] = Format.INT8 if requantize else Format.INT32
    activations, weights = _noise(bench, m * a_stride), _weights(bench, k, n, w4=w4)
    if corner is not None:
        activations[:] = corner & 0xFF
        weights[:] = np.clip(corner, W4_MIN, W4_MAX) if w4 else corner
    if w4:
        groups = -(-k // W4_GROUP)
        limit = 1 << int(rng.integers(2, W4_SCALE_BITS))
        scales = rng.integers(-limit + 1, limit, (groups, n)).astype(np.int16)
        stripes = pack_weights_w4(weights, scales, bench.config)
    else:
        stripes = pack_weights(weights, bench.config)
    gap = bench.config.alignment * int(rng.integers(0, 3))
    fields |= {"a_addr": bench.place(activations), "a_stride": a_stride}
    fields |= {"w_addr": bench.place(np.pad(stripes, ((0, 0), (0, gap))))}
    fields |= {"w_stride": stripes.shape[1] + gap}
    flags = Flag.W4 if w4 else Flag(0)
    if parameters:
        flags |= Flag.PARAMETERS
        fields["p_addr"] = bench.place(_parameters(bench, n, k, w4=w4))
    if residual:
        flags |= Flag.RESIDUAL
        stride = _stride(bench, element * n)
        fields |= {"r_addr": bench.place(_noise(bench, m * stride)), "r_stride": stride}
    return {**fields, "flags": flags, "o_addr": bench.space(m * o_stride), "o_stride": o_stride}


def random_gemm(bench: MemoryBench, shape: tuple[int, int, int]) -> Fields:
    """Return a GEMM with any options that the configuration has."""
    flip = [bool(bench.rng.integers(2)) for _ in range(4)]
    requantize = flip[0] and bench.config.int8_results
    return gemm_fields(
        bench,
        shape,
        w4=flip[1] and bench.config.w4,
        parameters=flip[2] or requantize,
        residual=flip[3],
        requantize=requantize,
    )


def _weights(bench: MemoryBench, k: int, n: int, *, w4: bool) -> npt.NDArray[np.int8]:
    low, high = (W4_MIN, W4_MAX) if w4 else (INT8_MIN, INT8_MAX)
    return bench.rng.integers(low, high, (k, n), dtype=np.int8, endpoint=True)


def _parameters(bench: MemoryBench, n: int, k: int, *, w4: bool) -> npt.NDArray[np.uint8]:
    """Return records whose factors leave results that are neither all zero nor all saturated."""
    low = int(k).bit_length() // 2 + (18 if w4 else 20)
    shifts = bench.rng.integers(low, low + 12, n)
    biases = bench.rng.integers(INT32_MIN, INT32_MAX, n) >> bench.rng.integers(0, 24, n)
    multipliers = bench.rng.integers(1 << 15, 1 << 16, n)
    records = [
        PARAMETERS.pack(bias=int(bias) & 0xFFFFFFFF, multiplier=int(multiplier), shift=int(shift))
        for bias, multiplier, shift in zip(biases, multipliers, shifts, strict=True)
    ]
    return np.frombuffer(b"".join(records), np.uint8)


def softmax(
    bench: MemoryBench,
    rows: int,
    cols: int,
    *,
    in_format: Format = Format.INT32,
    out_format: Format = Format.Q0_16,
    causal: bool = False,
    listed: bool = False,
) -> Fields:
    """Return a softmax of random scores, with random gaps between its rows.

    Parameters
    ----------
    listed
        Whether each row has a length of its own, some of them zero or too long.
    """
    a_stride = _stride(bench, cols * in_format.nbytes)
    o_stride = _stride(bench, cols * out_format.nbytes)
    scores = _noise(bench, rows * a_stride).view(DTYPES[in_format])
    if in_format is Format.INT32:
        scores >>= 16  # otherwise one element has it all
    spread = float(bench.rng.uniform(1, 12)) / float(np.ptp(scores.astype(np.int64)) + 1)
    scale = SoftmaxScale.encode(spread)
    fields = {
        "opcode": Opcode.SOFTMAX,
        "flags": (Flag.CAUSAL if causal else 0) | (Flag.LENGTHS if listed else 0),
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
    if listed:
        fields["p_addr"] = bench.place(bench.rng.integers(0, cols + 2, rows).astype(np.uint32))
    return fields


def attention(
    bench: MemoryBench,
    m: int,
    k: int,
    n: int,
    d_v: int,
    *,
    octaves: float | None = None,
    corner: int | None = None,
    lengths: Sequence[int] | None = None,
) -> Fields:
    """Return an attention of random numbers.

    Parameters
    ----------
    octaves
        How far apart the scores of a query are, as powers of two of their exponentials; random
        for each query if omitted.
    corner
        What all operands are, instead of random numbers.
    lengths
        Keys that each query sees; random if omitted, all of them for many queries.
    """
    rng, config = bench.rng, bench.config
    a_stride, o_stride = _stride(bench, k), _stride(bench, 2 * d_v)
    queries = _noise(bench, m * a_stride)
    keys, values = (
        rng.integers(INT8_MIN, INT8_MAX, (n, size), dtype=np.int8, endpoint=True)
        for size in (k, d_v)
    )
    if corner is not None:
        for operand in (queries, keys, values):
            operand[:] = np.array(corner).astype(operand.dtype)
    spreads = 2 ** rng.uniform(-3, 7, m) if octaves is None else np.full(m, octaves)
    scales = [SoftmaxScale.encode(spread / (5000 * k**0.5)) for spread in spreads]
    seen = rng.integers(0, n + 2, m)
    seen[rng.random(m) < 0.3] = n
    if lengths is not None:
        seen = np.array(lengths)
    records = [
        ATTENTION_ROW.pack(multiplier=one.multiplier, shift=one.shift, length=int(length))
        for one, length in zip(scales, seen, strict=True)
    ]
    packed = pack_keys(keys, config), pack_values(values, config)
    gaps = [config.alignment * int(rng.integers(0, 3)) for _ in packed]
    places = [
        bench.place(np.pad(stripes, ((0, 0), (0, gap))))
        for stripes, gap in zip(packed, gaps, strict=True)
    ]
    strides = [stripes.shape[1] + gap for stripes, gap in zip(packed, gaps, strict=True)]
    return {
        "opcode": Opcode.ATTENTION,
        "tag": _tag(bench),
        "a_addr": bench.place(queries),
        "a_stride": a_stride,
        "w_addr": places[0],
        "w_stride": strides[0],
        "r_addr": places[1],
        "r_stride": strides[1],
        "p_addr": bench.place(np.frombuffer(b"".join(records), np.uint8)),
        "o_addr": bench.space(m * o_stride),
        "o_stride": o_stride,
        "m": m,
        "k": k,
        "n": n,
        "d_v": d_v,
        "out_format": Format.INT16,
    }


def copy(bench: MemoryBench, nbytes: int) -> Fields:
    """Return a copy of random bytes."""
    return {
        "opcode": Opcode.COPY,
        "tag": _tag(bench),
        "a_addr": bench.place(_noise(bench, nbytes)),
        "o_addr": bench.space(nbytes),
        "n": nbytes,
    }


def nop(bench: MemoryBench) -> Fields:
    """Return a descriptor that does nothing."""
    return {"opcode": Opcode.NOP, "tag": _tag(bench)}


def random_job(bench: MemoryBench) -> Fields:
    """Return any descriptor, of a size that a bench can simulate."""
    draw = bench.rng.integers
    kinds = {"gemm": 0.4, "softmax": 0.3, "copy": 0.2, "nop": 0.1}
    if bench.config.attention:
        kinds |= {"gemm": 0.3, "attention": 0.2, "softmax": 0.2}
    kind = bench.rng.choice(list(kinds), p=list(kinds.values()))
    if kind == "gemm":
        m, k, n = (int(draw(1, limit)) for limit in (20, 70, 30))
        return random_gemm(bench, (m, k, n))
    if kind == "attention":
        m, n = int(draw(1, 6)), int(draw(1, 40))
        return attention(bench, m, int(draw(1, 30)), n, int(draw(1, 30)))
    if kind == "softmax":
        return softmax(
            bench,
            int(draw(1, 6)),
            int(draw(1, 60)),
            in_format=list(DTYPES)[draw(3)],
            out_format=(Format.Q0_16, Format.Q0_8)[draw(2)],
            causal=bool(draw(2)),
            listed=bool(draw(2)),
        )
    return copy(bench, int(draw(1, 5000))) if kind == "copy" else nop(bench)


def _noise(bench: MemoryBench, nbytes: int) -> npt.NDArray[np.uint8]:
    return bench.rng.integers(0, 256, nbytes, dtype=np.uint8)


def _stride(bench: MemoryBench, row_bytes: int) -> int:
    step = bench.config.alignment
    return step * (-(-row_bytes // step) + int(bench.rng.integers(0, 3)))


def _tag(bench: MemoryBench) -> int:
    return int(bench.rng.integers(0, 1 << 16))
