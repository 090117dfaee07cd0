"""Golden model of the GEMM engine."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ciuic.errors import ShapeError

# Products of two INT8 numbers are at most 2**14, so this many sum exactly in float32's 24 bits.
EXACT_FLOAT32_TERMS = 2**24 // 2**14


def gemm(activations: npt.NDArray[np.int8], weights: npt.NDArray[np.int8]) -> npt.NDArray[np.int32]:
    """Return activations (m, k) @ weights (k, n) as INT32 (m, n), wrapping as the hardware does.

    Computed in float32 slices along K that are exact, because BLAS has no integer product.
    """
    if activations.dtype != np.int8 or weights.dtype != np.int8:
        raise ShapeError(f"operands must be int8, not {activations.dtype} and {weights.dtype}")
    if activations.ndim != 2 or weights.ndim != 2 or activations.shape[1] != weights.shape[0]:
        raise ShapeError(
            f"shapes must be (m, k) and (k, n), not {activations.shape} and {weights.shape}"
        )
    m, k = activations.shape
    total = np.zeros((m, weights.shape[1]), np.int64)
    for start in range(0, k, EXACT_FLOAT32_TERMS):
        part = slice(start, start + EXACT_FLOAT32_TERMS)
        product = activations[:, part].astype(np.float32) @ weights[part].astype(np.float32)
        total += product.astype(np.int64)
    return total.astype(np.int32)
