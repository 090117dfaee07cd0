// A weight-stationary tile of ROWS x COLS multipliers: ROWS along K, COLS along N.
//
// Order of the work, the same in every process: blocks of ACCUMULATOR_ROWS rows of M, in each the
// blocks of COLS columns, in each the slices of SLICE blocks of K, whose weights are held while the
// rows of activations pass.

#include "gemm_tile.hpp"

#include <hls_stream.h>

using namespace ciuic;

namespace {

static_assert(ROWS % BUS_BYTES == 0, "a word of activations must be whole beats");
static_assert(COLS % BUS_BYTES == 0, "a row of a weight tile must be whole beats");

constexpr uint32_t SLICE = 16;  // a burst of activations is as long, in words
constexpr uint32_t ACTIVATION_BEATS = ROWS / BUS_BYTES;
constexpr uint32_t WEIGHT_BEATS = COLS / BUS_BYTES;

using Activation = ap_int<8>;
using Weight = ap_int<8>;
using Accumulator = ap_int<32>;
using Activations = Vector<Activation, ROWS>;    // along K
using Accumulators = Vector<Accumulator, COLS>;  // along N

struct Shape {
    uint32_t m, k, n;

    uint32_t k_blocks() const { return blocks(k, ROWS); }
    uint32_t height(uint32_t m_start) const { return smaller(m - m_start, ACCUMULATOR_ROWS); }
    uint32_t width(uint32_t n_start) const { return smaller(n - n_start, COLS); }
    uint32_t depth(uint32_t k_block) const { return smaller(k_blocks() - k_block, SLICE); }
    uint32_t row_beats() const { return blocks(k, BUS_BYTES); }
};

void read_activations(const Beat *memory, hls::stream<Beat> &out, Shape shape, uint32_t stride) {
    for (uint32_t m_start = 0; m_start < shape.m; m_start += ACCUMULATOR_ROWS)
        for (uint32_t n_start = 0; n_start < shape.n; n_start += COLS)
            for (uint32_t k_block = 0; k_block < shape.k_blocks(); k_block += SLICE)
                for (uint32_t row = 0; row < shape.height(m_start); row++) {
                    const uint32_t first = k_block * ACTIVATION_BEATS;
                    const uint32_t count =
                        smaller(shape.row_beats() - first, SLICE * ACTIVATION_BEATS);
                    const Beat *source =
                        memory + uint64_t(m_start + row) * (stride / BUS_BYTES) + first;
                    for (uint32_t beat = 0; beat < count; beat++) {
#pragma HLS PIPELINE II=1
                        out.write(source[beat]);
                    }
                }
}

// Make words of ROWS activations; beats beyond the end of a row, which are not read, are zeros.
void align_activations(hls::stream<Beat> &in, hls::stream<Activations> &out, Shape shape) {
    for (uint32_t m_start = 0; m_start < shape.m; m_start += ACCUMULATOR_ROWS)
        for (uint32_t n_start = 0; n_start < shape.n; n_start += COLS)
            for (uint32_t k_block = 0; k_block < shape.k_blocks(); k_block += SLICE)
                for (uint32_t row = 0; row < shape.height(m_start); row++)
                    for (uint32_t word = 0; word < shape.depth(k_block); word++) {
#pragma HLS PIPELINE II=ACTIVATION_BEATS
                        Activations activations;
                        for (uint32_t beat = 0; beat < ACTIVATION_BEATS; beat++) {
                            const uint32_t position = (k_block + word) * ACTIVATION_BEATS + beat;
                            const Beat data = position < shape.row_beats() ? in.read() : Beat(0);
                            for (int byte = 0; byte < BUS_BYTES; byte++)
                                activations[beat * BUS_BYTES + byte] =
                                    data.range(8 * byte + 7, 8 * byte);
                        }
                        out.write(activations);
                    }
}

void read_weights(const Beat *memory, hls::stream<Beat> &out, Shape shape) {
    const uint32_t count = blocks(shape.n, COLS) * shape.k_blocks() * ROWS * WEIGHT_BEATS;
    for (uint32_t m_start = 0; m_start < shape.m; m_start += ACCUMULATOR_ROWS)
        for (uint32_t beat = 0; beat < count; beat++) {
#pragma HLS PIPELINE II=1
            out.write(memory[beat]);
        }
}

void multiply(hls::stream<Activations> &activations, hls::stream<Beat> &weights,
              hls::stream<Accumulators> &results, Shape shape) {
    Weight held[SLICE][ROWS][COLS];
#pragma HLS ARRAY_PARTITION variable=held complete dim=2
#pragma HLS ARRAY_PARTITION variable=held complete dim=3
    Accumulators totals[ACCUMULATOR_ROWS];
#pragma HLS AGGREGATE variable=totals

    for (uint32_t m_start = 0; m_start < shape.m; m_start += ACCUMULATOR_ROWS)
        for (uint32_t n_start = 0; n_start < shape.n; n_start += COLS)
            for (uint32_t k_block = 0; k_block < shape.k_blocks(); k_block += SLICE) {
                const uint32_t depth = shape.depth(k_block);
                const bool last_slice = k_block + depth == shape.k_blocks();

                for (uint32_t word = 0; word < depth; word++)
                    for (int row = 0; row < ROWS; row++)
                        for (uint32_t beat = 0; beat < WEIGHT_BEATS; beat++) {
#pragma HLS PIPELINE II=1
                            const Beat data = weights.read();
                            for (int byte = 0; byte < BUS_BYTES; byte++)
                                held[word][row][beat * BUS_BYTES + byte] =
                                    data.range(8 * byte + 7, 8 * byte);
                        }

                for (uint32_t row = 0; row < shape.height(m_start); row++) {
                    Accumulators running;
                    for (uint32_t word = 0; word < depth; word++) {
#pragma HLS PIPELINE II=1
                        const Activations passing = activations.read();
                        for (int col = 0; col < COLS; col++) {
#pragma HLS UNROLL
                            // A tree of its own, so that only one addition is a recurrence.
                            Accumulator dot = 0;
                            for (int lane = 0; lane < ROWS; lane++)
                                dot += passing[lane] * held[word][lane][col];
                            if (word == 0)
                                running[col] = k_block == 0 ? Accumulator(0) : totals[row][col];
                            running[col] += dot;
                        }
                        if (word == depth - 1) {
                            totals[row] = running;
                            if (last_slice)
                                results.write(running);
                        }
                    }
                }
            }
}

void write_results(hls::stream<Accumulators> &in, Accumulator *memory, Shape shape,
                   uint32_t stride) {
    for (uint32_t m_start = 0; m_start < shape.m; m_start += ACCUMULATOR_ROWS)
        for (uint32_t n_start = 0; n_start < shape.n; n_start += COLS)
            for (uint32_t row = 0; row < shape.height(m_start); row++) {
                const Accumulators results = in.read();
                Accumulator *target =
                    memory + uint64_t(m_start + row) * (stride / sizeof(int32_t)) + n_start;
                for (uint32_t col = 0; col < shape.width(n_start); col++) {
#pragma HLS PIPELINE II=1
                    target[col] = results[col];
                }
            }
}

void stages(const Beat *activations, const Beat *weights, Accumulator *results, Shape shape,
            uint32_t a_stride, uint32_t o_stride) {
#pragma HLS DATAFLOW
    hls::stream<Beat> activation_beats("activation_beats");
    hls::stream<Beat> weight_beats("weight_beats");
    hls::stream<Activations> activation_words("activation_words");
    hls::stream<Accumulators> result_rows("result_rows");
#pragma HLS STREAM variable=activation_beats depth=64
#pragma HLS STREAM variable=weight_beats depth=64
#pragma HLS STREAM variable=activation_words depth=4
#pragma HLS STREAM variable=result_rows depth=4

    read_activations(activations, activation_beats, shape, a_stride);
    align_activations(activation_beats, activation_words, shape);
    read_weights(weights, weight_beats, shape);
    multiply(activation_words, weight_beats, result_rows, shape);
    write_results(result_rows, results, shape, o_stride);
}

}  // namespace

void gemm_tile(const Beat *activations, const Beat *weights, ap_int<32> *results, uint32_t m,
               uint32_t k, uint32_t n, uint32_t a_stride, uint32_t o_stride) {
#pragma HLS INTERFACE m_axi port=activations bundle=activations offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE m_axi port=weights bundle=weights offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE m_axi port=results bundle=results offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE s_axilite port=activations
#pragma HLS INTERFACE s_axilite port=weights
#pragma HLS INTERFACE s_axilite port=results
#pragma HLS INTERFACE s_axilite port=m
#pragma HLS INTERFACE s_axilite port=k
#pragma HLS INTERFACE s_axilite port=n
#pragma HLS INTERFACE s_axilite port=a_stride
#pragma HLS INTERFACE s_axilite port=o_stride
#pragma HLS INTERFACE s_axilite port=return
    stages(activations, weights, results, {m, k, n}, a_stride, o_stride);
}
