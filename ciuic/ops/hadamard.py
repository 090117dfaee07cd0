"""hadamard: rows x (t, k), each block of ``block`` elements times a Hadamard matrix.

The matrix is Sylvester's, of ones and minus ones, without a factor: what a block holds in one
element is spread over all. INT8 activations have one scale for a row, so that an element far
larger than the others would leave these few levels; rotated, no element is. The layer's weight is
rotated beforehand (`ciuic.quantize.quantize_columns`), and the product stays the same.
Source: Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in Rotated LLMs".

Sums are in float32, two elements at a time: pairs at distance 1, then 2, 4 and so on, the sum in
the place of the first and the difference in that of the second. So all devices have the same bits.
"""

from __future__ import annotations

from ciuic.quantize import Float32Array, check_block, rotate

from .operator import Cost, Operator, Shape, Spec, elements, require


def _shape(x: Spec, *, block: int) -> Shape:
    require(len(x.shape) == 2 and x.dtype.name == "float32", "hadamard", "float32 (t, k)", (x,))
    check_block(block, x.shape[1])
    return x.shape


def _cost(x: Spec, *, block: int) -> Cost:
    count = elements(x.shape)
    return Cost(count * (block.bit_length() - 1), 8 * count)


def _kernel(x: Float32Array, *, block: int) -> Float32Array:
    return rotate(x, block)


OPERATOR = Operator("hadamard", _shape, _cost, _kernel)
