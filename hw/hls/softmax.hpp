// The SOFTMAX of ciuic/abi/descriptors.py with the arithmetic of ciuic/abi/numerics.py.
#pragma once

#include "types.hpp"

// Parameters
//   scores       in_format (INT32, INT16 or INT8), rows a_stride bytes apart; the beats of the
//                valid elements are read.
//   lengths      of each row, with FLAG_LENGTHS; not read without.
//   results      out_format (Q0_16 or Q0_8), rows o_stride bytes apart; all n elements are written,
//                and zeros to the end of a row's last beat.
//   m, n         rows, and elements of a row; n at most MAX_ROW.
//   strides      multiples of BUS_BYTES.
//   formats      numbers of Format, flags those of FLAG_*.
//   multiplier, shift, row_offset   as in the descriptor.
extern "C" void softmax(const ciuic::Beat *scores, const ap_uint<32> *lengths,
                        ciuic::Beat *results, uint32_t m, uint32_t n, uint32_t a_stride,
                        uint32_t o_stride, uint8_t in_format, uint8_t out_format, uint8_t flags,
                        uint8_t shift, uint32_t multiplier, uint32_t row_offset);
