"""`python -m ciuic_hw.hls_vectors KERNEL --config NAME -o FILE`: test vectors for `hw/hls`.

Random cases whose results come from `ciuic.reference`, in the format of
`hw/hls/testbench/vectors.hpp`. Bytes that a kernel must not use, or must not touch, are random.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from ciuic.abi import CONFIGS, Flag, Format, OverlayConfig
from ciuic.abi.numerics import SoftmaxScale
from ciuic.reference import gemm, pack_weights, softmax, valid_lengths

from .hls_header import COSIM_DEPTH

__all__ = ["KERNELS", "vectors"]

DTYPES = {Format.INT32: np.int32, Format.INT16: np.int16, Format.INT8: np.int8}
EDGES = (-1, 0, 1)  # sizes round a block


def vectors(kernel: str, config: OverlayConfig, *, cases: int, seed: int) -> bytes:
    """Return random cases of a kernel, one after the other."""
    rng = np.random.default_rng(seed)
    return b"".join(KERNELS[kernel](rng, config) for _ in range(cases))


def _case(numbers: list[int], *blocks: np.ndarray) -> bytes:
    """Return one case: the kernel's numbers, then its blocks of memory."""
    parts = [np.array(numbers, "<u4").tobytes()]
    for block in blocks:
        parts += [np.uint32(block.nbytes).tobytes(), block.tobytes()]
    return b"".join(parts)


def _size(rng: np.random.Generator, block: int, most: int) -> int:
    """Return a size: often small or at the edge of a block, never more than ``most``."""
    edge = block * rng.integers(1, 4) + rng.choice(EDGES)
    return min(int(rng.choice([1, rng.integers(1, most, endpoint=True), edge])), most)


def _stride(rng: np.random.Generator, nbytes: int, config: OverlayConfig) -> int:
    """Return a stride of whole beats that has room for a row."""
    return (-(-nbytes // config.bus_bytes) + int(rng.integers(3))) * config.bus_bytes


def _noise(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, 256, shape, dtype=np.uint8)


def _place(memory: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return rows of bytes (rows, stride) with an array's rows at their beginning."""
    placed = memory.copy()
    data = np.ascontiguousarray(rows).view(np.uint8)
    placed[:, : data.shape[1]] = data
    return placed


def _readable(rows: np.ndarray, nbytes: int, config: OverlayConfig) -> np.ndarray:
    """Return the bytes up to the last beat of the last row: no kernel may use more."""
    spare = rows.shape[1] - -(-nbytes // config.bus_bytes) * config.bus_bytes
    return rows.reshape(-1)[: rows.size - spare]


def _gemm_tile(rng: np.random.Generator, config: OverlayConfig) -> bytes:
    m = _size(rng, config.accumulator_rows, 140)
    k = _size(rng, config.rows, 400)
    n = _size(rng, config.cols, 70)
    a_stride, o_stride = _stride(rng, k, config), _stride(rng, 4 * n, config)
    if max(m * a_stride // config.bus_bytes, m * o_stride // 4) > COSIM_DEPTH:
        return _gemm_tile(rng, config)
    extremes = rng.random() < 0.2
    low, high = (-128, -128) if extremes else (-128, 127)
    activations = rng.integers(low, high, (m, k), np.int8, endpoint=True)
    weights = rng.integers(low, high, (k, n), np.int8, endpoint=True)
    before = _noise(rng, m, o_stride)
    return _case(
        [m, k, n, a_stride, o_stride],
        _readable(_place(_noise(rng, m, a_stride), activations), k, config),
        pack_weights(weights, replace(config, ports=1)),  # the kernel has one port for them
        before,
        _place(before, gemm(activations, weights)),
    )


def _scores(rng: np.random.Generator, rows: int, cols: int, dtype: type) -> np.ndarray:
    """Return scores (rows, cols): anything, nearly equal ones, a bell, or one large element."""
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    kind = rng.integers(4)
    if kind == 0:
        return rng.integers(low, high, (rows, cols), dtype, endpoint=True)
    if kind == 1:
        return rng.integers(0, 3, (rows, cols), dtype)
    if kind == 2:
        return np.clip(rng.normal(0, high / 6, (rows, cols)), low, high).astype(dtype)
    scores = np.full((rows, cols), rng.choice([low, -7]), dtype)
    scores[:, rng.integers(cols)] = rng.choice([0, high])
    return scores


def _softmax(rng: np.random.Generator, config: OverlayConfig) -> bytes:
    in_format = Format(rng.choice(list(DTYPES)))
    out_format = Format(rng.choice([Format.Q0_16, Format.Q0_8]))
    n = _size(rng, config.lanes, config.max_row if rng.random() < 0.2 else 200)
    m = int(rng.integers(1, max(2, min(20, 12_000 // n))))
    a_stride = _stride(rng, n * in_format.nbytes, config)
    o_stride = _stride(rng, n * out_format.nbytes, config)
    flags = Flag(0)
    row_offset = listed = None
    if rng.integers(2):
        flags |= Flag.CAUSAL
        row_offset = int(rng.choice([0, rng.integers(n), 2**32 - 1]))
    if rng.integers(2):
        flags |= Flag.LENGTHS
        listed = rng.choice([0, 1, rng.integers(n), n, 2**32 - 1], m).astype("<u4")

    scores = _scores(rng, m, n, DTYPES[in_format])
    span = float(scores.max()) - float(scores.min()) + 1
    scale = SoftmaxScale.encode(float(np.exp(rng.uniform(np.log(0.01), np.log(200)))) / span)
    lengths = valid_lengths(m, n, row_offset=row_offset, lengths=listed)
    results = softmax(scores, scale=scale, out=out_format, lengths=lengths)

    used = int(lengths[-1]) * in_format.nbytes
    before = _noise(rng, m, o_stride)
    after = before.copy()
    beats = -(-n * out_format.nbytes // config.bus_bytes)
    after[:, : beats * config.bus_bytes] = 0
    return _case(
        [
            *(m, n, a_stride, o_stride, in_format, out_format, flags),
            *(scale.shift, scale.multiplier, row_offset or 0),
        ],
        _readable(_place(_noise(rng, m, a_stride), scores), used, config),
        np.empty(0, np.uint32) if listed is None else listed,
        before,
        _place(after, results),
    )


KERNELS = {"gemm_tile": _gemm_tile, "softmax": _softmax}


def main(arguments: list[str] | None = None) -> int:
    """Write test vectors to a file."""
    parser = argparse.ArgumentParser(prog="python -m ciuic_hw.hls_vectors", description=__doc__)
    parser.add_argument("kernel", choices=sorted(KERNELS), help="whose vectors to write")
    parser.add_argument("--config", choices=sorted(CONFIGS), default="tiny", help="what to test")
    parser.add_argument("--cases", type=int, default=100, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers")
    parser.add_argument("-o", "--output", type=Path, required=True, help="file to write")
    options = parser.parse_args(arguments)
    config = CONFIGS[options.config]
    options.output.write_bytes(
        vectors(options.kernel, config, cases=options.cases, seed=options.seed)
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
