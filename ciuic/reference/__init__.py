"""Golden models, bit for bit, of what the overlay computes."""

from .gemm import gemm
from .packing import pack_weights, packed_nbytes, unpack_weights

__all__ = ["gemm", "pack_weights", "packed_nbytes", "unpack_weights"]
