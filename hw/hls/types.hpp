// Types that both kernels share.
#pragma once

#include <cstdint>

#include <ap_int.h>

#include "constants.hpp"

namespace ciuic {

using Beat = ap_uint<8 * BUS_BYTES>;  // byte 0 of memory in the lowest bits

template <typename T, int N>
struct Vector {
    T data[N];

    T &operator[](int index) { return data[index]; }
    const T &operator[](int index) const { return data[index]; }
};

constexpr uint32_t blocks(uint32_t size, uint32_t block) { return (size + block - 1) / block; }

constexpr uint32_t smaller(uint32_t one, uint32_t other) { return one < other ? one : other; }

}  // namespace ciuic
