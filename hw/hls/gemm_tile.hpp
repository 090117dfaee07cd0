// The GEMM of ciuic/abi/descriptors.py: results[m, n] = activations[m, k] @ weights[k, n].
#pragma once

#include "types.hpp"

// Parameters
//   activations  INT8, rows a_stride bytes apart, readable up to whole beats.
//   weights      INT8, in the order of ciuic.reference.packing.pack_weights.
//   results      INT32, rows o_stride bytes apart; nothing beside the m x n results is written.
//   m, k, n      from 1 to the limits of ciuic/abi/descriptors.py.
//   strides      multiples of BUS_BYTES.
extern "C" void gemm_tile(const ciuic::Beat *activations, const ciuic::Beat *weights,
                          ap_int<32> *results, uint32_t m, uint32_t k, uint32_t n,
                          uint32_t a_stride, uint32_t o_stride);
