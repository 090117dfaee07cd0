"""Golden models, bit for bit, of what the overlay computes."""

from .gemm import gemm
from .packing import pack_weights, packed_nbytes, unpack_weights
from .softmax import causal_lengths, softmax

__all__ = [
    "causal_lengths",
    "gemm",
    "pack_weights",
    "packed_nbytes",
    "softmax",
    "unpack_weights",
]
