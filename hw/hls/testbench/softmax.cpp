#include "../softmax.hpp"

#include "vectors.hpp"

using namespace ciuic;

namespace {

Bytes run_case(Vectors &vectors) {
    const uint32_t m = vectors.number();
    const uint32_t n = vectors.number();
    const uint32_t a_stride = vectors.number();
    const uint32_t o_stride = vectors.number();
    const uint32_t in_format = vectors.number();
    const uint32_t out_format = vectors.number();
    const uint32_t flags = vectors.number();
    const uint32_t shift = vectors.number();
    const uint32_t multiplier = vectors.number();
    const uint32_t row_offset = vectors.number();
    BeatMemory scores(vectors.block());
    Memory<ap_uint<32>, 32> lengths(vectors.block());
    BeatMemory results(vectors.block());
    softmax(scores.data(), lengths.data(), results.data(), m, n, a_stride, o_stride, in_format,
            out_format, flags, shift, multiplier, row_offset);
    return results.bytes();
}

}  // namespace

int main(int argc, char **argv) { return run(argc, argv, run_case); }
