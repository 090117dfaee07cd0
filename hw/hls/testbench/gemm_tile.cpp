#include "../gemm_tile.hpp"

#include "vectors.hpp"

using namespace ciuic;

namespace {

Bytes run_case(Vectors &vectors) {
    const uint32_t m = vectors.number();
    const uint32_t k = vectors.number();
    const uint32_t n = vectors.number();
    const uint32_t a_stride = vectors.number();
    const uint32_t o_stride = vectors.number();
    BeatMemory activations(vectors.block());
    BeatMemory weights(vectors.block());
    Memory<ap_int<32>, 32> results(vectors.block());
    gemm_tile(activations.data(), weights.data(), results.data(), m, k, n, a_stride, o_stride);
    return results.bytes();
}

}  // namespace

int main(int argc, char **argv) { return run(argc, argv, run_case); }
