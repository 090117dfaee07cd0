"""What the bench of the attention engine runs: heads of queries over cached keys and values."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from ciuic_host.overlay import Overlay
from ciuic_host.staging import Staging

from ciuic.abi import ATTENTION_ROW, DESCRIPTOR, Format, Opcode, OverlayConfig
from ciuic.abi.numerics import ATTENTION_FRACTION, SoftmaxScale
from ciuic.reference import pack_keys, pack_values
from ciuic.reference.packing import blocks

from .cases import Staged

LENGTHS = (64, 128, 256, 512, 1024)
ROWS = 64
HEAD_DIM = 64
SPREAD = 30.0
"""Standard deviation of the operands, INT8."""
DEVIATION = 3.0
"""Standard deviation of the scores times the scale: a few keys matter for each query."""


@dataclass(frozen=True)
class Case:
    """Attention of one layer: ``m`` queries of each head over ``t`` keys, all submitted together.

    Heads that share keys and values are rows of one descriptor, as many as it takes.
    """

    heads: int
    kv_heads: int
    m: int
    t: int
    d: int = HEAD_DIM

    @property
    def macs(self) -> int:
        """Multiply-accumulates of scores and of values."""
        return 2 * self.heads * self.m * self.t * self.d

    @property
    def scale(self) -> float:
        """What multiplies the scores before exp."""
        return DEVIATION / (SPREAD**2 * math.sqrt(self.d))

    def operands(self) -> Iterator[tuple[npt.NDArray[np.int8], ...]]:
        """Yield queries (rows, d), keys (t, d) and values (t, d) of each head that has keys."""
        rng = np.random.default_rng(0)
        rows = self.m * self.heads // self.kv_heads
        for _ in range(self.kv_heads):
            yield tuple(
                np.clip(rng.normal(0, SPREAD, (count, self.d)), -127, 127).astype(np.int8)
                for count in (rows, self.t, self.t)
            )

    def parts(self, config: OverlayConfig) -> list[slice]:
        """Return the rows of each descriptor of a head that has keys."""
        rows = self.m * self.heads // self.kv_heads
        most = min(config.accumulator_rows, config.attention_rows // blocks(self.d, config.cols))
        return [slice(start, min(start + most, rows)) for start in range(0, rows, most)]

    def beats(self, config: OverlayConfig) -> int:
        """Return the beats of keys and values, read once for each head that has them."""
        tiles = blocks(self.t, config.cols) * 2 * blocks(self.d, config.rows)
        return self.kv_heads * tiles * config.tile_bytes // config.bus_bytes

    def bounds(self, config: OverlayConfig) -> dict[str, float]:
        """Return the cycles that the array and that the memory ports need at least."""
        return {
            "compute": self.macs / config.macs_per_cycle,
            "memory": self.beats(config) / config.ports,
        }

    def unfused_bytes(self) -> int:
        """Return the bytes that GEMM, softmax to 8 bits and GEMM would read, a head at a time."""
        return self.heads * (self.m * self.d + 2 * self.t * self.d + 5 * self.m * self.t)

    def error(self, results: list[npt.NDArray[np.int16]]) -> float:
        """Return the largest difference from attention in float64, of values from -1 to 1."""
        unit = 2.0**-7  # what a value of one stands for
        worst, done = 0.0, iter(results)
        for queries, keys, values in self.operands():
            scores = self.scale * (queries.astype(np.float64) @ keys.astype(np.float64).T)
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            exact = powers / powers.sum(axis=1, keepdims=True) @ values.astype(np.float64)
            while len(exact):
                found = next(done)
                off = found * 2.0**-ATTENTION_FRACTION - exact[: len(found)]
                worst, exact = max(worst, float(np.abs(off).max()) * unit), exact[len(found) :]
        return worst

    def stage(self, overlay: Overlay, staging: Staging) -> Staged:
        """Place operands in the device's memory."""
        config = overlay.config
        scale = SoftmaxScale.encode(self.scale)
        record = ATTENTION_ROW.pack(multiplier=scale.multiplier, shift=scale.shift, length=self.t)
        arrays: list[npt.NDArray[np.int8] | npt.NDArray[np.uint8]] = []
        for queries, keys, values in self.operands():
            for part in self.parts(config):
                rows = queries[part]
                records = np.frombuffer(record * len(rows), np.uint8)[None]
                arrays += [rows, records, pack_keys(keys, config), pack_values(values, config)]
        counts = [len(queries) for queries in arrays[::4]]
        results = [(count, 2 * self.d) for count in counts]
        matrices = staging.matrices(*(array.shape for array in arrays), *results)
        outputs = matrices[len(arrays) :]
        for matrix, array in zip(matrices, arrays, strict=False):
            matrix.put(array)
        descriptors = []
        for index, output in enumerate(outputs):
            queries_at, records_at, keys_at, values_at = matrices[4 * index : 4 * index + 4]
            descriptors.append(
                DESCRIPTOR.pack(
                    opcode=Opcode.ATTENTION,
                    a_addr=queries_at.address,
                    a_stride=queries_at.stride,
                    p_addr=records_at.address,
                    w_addr=keys_at.address,
                    w_stride=keys_at.stride,
                    r_addr=values_at.address,
                    r_stride=values_at.stride,
                    o_addr=output.address,
                    o_stride=output.stride,
                    m=counts[index],
                    k=self.d,
                    n=self.t,
                    d_v=self.d,
                    out_format=Format.INT16,
                )
            )
        return Staged(descriptors, lambda: [output.get(np.int16) for output in outputs])

    def __str__(self) -> str:
        return f"attention, {self.heads}/{self.kv_heads} heads, {self.m} x {self.t} x {self.d}"


def all_cases(config: OverlayConfig) -> list[Case]:
    """Return prefill of one head and of several, and decoding with shared keys and without."""
    if not config.attention:
        return []
    return [
        Case(heads, kv_heads, m, t)
        for heads, kv_heads, m in ((1, 1, ROWS), (8, 8, ROWS), (9, 3, ROWS), (1, 1, 1), (9, 3, 1))
        for t in LENGTHS
    ]
