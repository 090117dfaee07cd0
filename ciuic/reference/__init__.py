"""Golden models, bit for bit, of what the overlay computes."""

from .attention import attention
from .gemm import ColumnParameters, encode_scales, gemm, gemm_w4, output_stage
from .packing import (
    pack_keys,
    pack_values,
    pack_weights,
    pack_weights_w4,
    packed_nbytes,
    unpack_keys,
    unpack_values,
    unpack_weights,
    unpack_weights_w4,
)
from .softmax import causal_lengths, softmax, valid_lengths

__all__ = [
    "ColumnParameters",
    "attention",
    "causal_lengths",
    "encode_scales",
    "gemm",
    "gemm_w4",
    "output_stage",
    "pack_keys",
    "pack_values",
    "pack_weights",
    "pack_weights_w4",
    "packed_nbytes",
    "softmax",
    "unpack_keys",
    "unpack_values",
    "unpack_weights",
    "unpack_weights_w4",
    "valid_lengths",
]
