// Rows of LANES elements a cycle through three stages: the maximum, the exponentials and their sum,
// the results. Streams hold a row between two stages, so three rows are under way.

#include "softmax.hpp"

#include <hls_stream.h>

using namespace ciuic;

namespace {

constexpr int ceil_log2(uint64_t value) { return value <= 1 ? 0 : 1 + ceil_log2((value + 1) / 2); }

using Score = ap_int<DISTANCE_BITS>;
using Distance = ap_uint<DISTANCE_BITS>;
using Scaled = ap_uint<SCALED_BITS>;
using Multiplier = ap_uint<MULTIPLIER_BITS>;
using Shift = ap_uint<ceil_log2(MAX_SHIFT + 1)>;
using Position = ap_uint<EXPONENT_FRACTION>;
using Mantissa = ap_uint<MANTISSA_FRACTION + 1>;
using Total = ap_uint<SUM_FRACTION + 1 + ceil_log2(MAX_ROW)>;
using Inverse = ap_uint<RECIPROCAL_FRACTION>;
using Probability = ap_uint<PROBABILITY_FRACTION + 1>;
using Running = ap_uint<PROBABILITY_FRACTION + 2 + ceil_log2(LANES)>;
using Result = ap_uint<RESULT_FRACTION_16>;

static_assert(EXPONENT_FRACTION == TABLE_BITS + STEP_BITS, "one position serves both tables");

struct Exponential {  // mantissa * 2**-(halvings + MANTISSA_FRACTION)
    Mantissa mantissa;
    ap_uint<ceil_log2(EXPONENT_LIMIT)> halvings;
};

struct Reciprocal {  // inverse * 2**-(norm + RECIPROCAL_FRACTION)
    Inverse inverse;
    ap_uint<ceil_log2(ceil_log2(MAX_ROW) + 1)> norm;
};

using Scores = Vector<Score, LANES>;
using Exponentials = Vector<Exponential, LANES>;
using Results = Vector<Result, LANES>;

constexpr int ROW_DEPTH = MAX_ROW / LANES + 32;  // a whole row, and what the next stage delays

// Bytes between beats and words: less than one word and one beat more.
constexpr int WINDOW_BYTES = LANES * sizeof(int32_t) + BUS_BYTES;
using Window = ap_uint<8 * WINDOW_BYTES>;

struct Rows {
    uint32_t count, cols, offset;
    bool causal, listed;
};

// The valid elements of each row, one after the other; zero if it has none.
using Lengths = hls::stream<uint32_t>;

void find_lengths(const ap_uint<32> *memory, Lengths &to_read, Lengths &to_unpack,
                  Lengths &to_compare, Lengths &to_exponentiate, Lengths &to_normalize,
                  Rows rows) {
    for (uint32_t row = 0; row < rows.count; row++) {
#pragma HLS PIPELINE II=1
        const uint64_t reach = uint64_t(rows.offset) + row + 1;
        uint32_t valid = rows.causal && reach < rows.cols ? uint32_t(reach) : rows.cols;
        if (rows.listed)
            valid = smaller(valid, memory[row]);
        to_read.write(valid);
        to_unpack.write(valid);
        to_compare.write(valid);
        to_exponentiate.write(valid);
        to_normalize.write(valid);
    }
}

void read_scores(const Beat *memory, hls::stream<Beat> &out, Lengths &lengths, Rows rows,
                 uint8_t format, uint32_t stride) {
    for (uint32_t row = 0; row < rows.count; row++) {
        const Beat *source = memory + uint64_t(row) * (stride / BUS_BYTES);
        const uint32_t count = blocks(lengths.read() * FORMAT_NBYTES[format], BUS_BYTES);
        for (uint32_t beat = 0; beat < count; beat++) {
#pragma HLS PIPELINE II=1
            out.write(source[beat]);
        }
    }
}

Score score_at(const Window &window, int lane, uint8_t format) {
    if (format == FORMAT_INT32)
        return ap_int<32>(window.range(32 * lane + 31, 32 * lane));
    if (format == FORMAT_INT16)
        return ap_int<16>(window.range(16 * lane + 15, 16 * lane));
    return ap_int<8>(window.range(8 * lane + 7, 8 * lane));
}

// Make words of a row's beats. Each cycle takes a beat or gives a word or both, whichever is the
// bound; the last word of a row is filled up with zeros.
void unpack(hls::stream<Beat> &in, hls::stream<Scores> &out, Lengths &lengths, Rows rows,
            uint8_t format) {
    const uint32_t nbytes = LANES * FORMAT_NBYTES[format];
    for (uint32_t row = 0; row < rows.count; row++) {
        const uint32_t valid = lengths.read();
        uint32_t beats = blocks(valid * FORMAT_NBYTES[format], BUS_BYTES);
        uint32_t held = 0;
        Window window = 0;
        for (uint32_t word = 0; word < blocks(valid, LANES);) {
#pragma HLS PIPELINE II=1
            if (held < nbytes) {
                if (beats > 0) {
                    window |= Window(in.read()) << (8 * held);
                    beats--;
                }
                held += BUS_BYTES;
            }
            if (held >= nbytes) {
                Scores scores;
                for (int lane = 0; lane < LANES; lane++)
                    scores[lane] = score_at(window, lane, format);
                out.write(scores);
                window >>= 8 * nbytes;
                held -= nbytes;
                word++;
            }
        }
    }
}

void find_maximum(hls::stream<Scores> &in, hls::stream<Scores> &out, hls::stream<Score> &maxima,
                  Lengths &lengths, Rows rows) {
    for (uint32_t row = 0; row < rows.count; row++) {
        const uint32_t valid = lengths.read();
        Score maximum = INT32_MIN;
        for (uint32_t word = 0; word < blocks(valid, LANES); word++) {
#pragma HLS PIPELINE II=1
            const Scores scores = in.read();
            Score largest = INT32_MIN;
            for (int lane = 0; lane < LANES; lane++)
                if (word * LANES + lane < valid && scores[lane] > largest)
                    largest = scores[lane];
            if (largest > maximum)
                maximum = largest;
            out.write(scores);
        }
        maxima.write(maximum);
    }
}

template <int BITS>
ap_uint<BITS> interpolate(const uint32_t table[], Position position) {
    const ap_uint<BITS + SLOPE_BITS> entry = table[position >> STEP_BITS];
    const ap_uint<BITS> value = entry;
    const ap_uint<SLOPE_BITS> slope = entry >> BITS;
    const ap_uint<STEP_BITS> step = position;
    const ap_uint<SLOPE_BITS + STEP_BITS> decrease = slope * step + (1 << (STEP_BITS - 1));
    return value - (decrease >> STEP_BITS);
}

Exponential exponential(Distance distance, Multiplier multiplier, Shift shift) {
    const ap_uint<DISTANCE_BITS + PRE_SHIFT> shifted =
        (ap_uint<DISTANCE_BITS + PRE_SHIFT>(distance) << PRE_SHIFT) >> shift;
    const Scaled largest = -1;
    const Scaled scaled = shifted > largest ? largest : Scaled(shifted);
    const ap_uint<SCALED_BITS + MULTIPLIER_BITS - POST_SHIFT> exponent =
        (scaled * multiplier) >> POST_SHIFT;
    const auto halvings = exponent >> EXPONENT_FRACTION;
    if (halvings >= EXPONENT_LIMIT)
        return {0, 0};
    return {interpolate<Mantissa::width>(EXP2_TABLE, exponent), halvings};
}

Reciprocal reciprocal(Total total) {
    int norm = 0;
    for (int power = 1; power < Total::width - SUM_FRACTION; power++) {
#pragma HLS UNROLL
        if (total[SUM_FRACTION + power])
            norm = power;
    }
    const Position fraction = total >> (SUM_FRACTION - EXPONENT_FRACTION + norm);
    return {interpolate<Inverse::width>(RECIPROCAL_TABLE, fraction), norm};
}

void exponentiate(hls::stream<Scores> &in, hls::stream<Score> &maxima,
                  hls::stream<Exponentials> &out, hls::stream<Reciprocal> &reciprocals,
                  Lengths &lengths, Rows rows, Multiplier multiplier, Shift shift) {
    for (uint32_t row = 0; row < rows.count; row++) {
        const uint32_t valid = lengths.read();
        const Score maximum = maxima.read();
        Total total = 0;
        for (uint32_t word = 0; word < blocks(valid, LANES); word++) {
#pragma HLS PIPELINE II=1
            const Scores scores = in.read();
            Exponentials exponentials;
            Total sum = 0;
            for (int lane = 0; lane < LANES; lane++) {
                const Distance distance = maximum - scores[lane];
                const bool inside = word * LANES + lane < valid;
                exponentials[lane] =
                    inside ? exponential(distance, multiplier, shift) : Exponential{0, 0};
                sum += (Total(exponentials[lane].mantissa) << (SUM_FRACTION - MANTISSA_FRACTION)) >>
                       exponentials[lane].halvings;
            }
            total += sum;
            out.write(exponentials);
        }
        reciprocals.write(reciprocal(total));
    }
}

Probability probability(const Exponential &exponential, const Reciprocal &reciprocal) {
    constexpr int surplus = MANTISSA_FRACTION + RECIPROCAL_FRACTION - PROBABILITY_FRACTION;
    const auto product = exponential.mantissa * reciprocal.inverse;
    return product >> (surplus + exponential.halvings + reciprocal.norm);
}

// Round probabilities closer to a unit of 8 bits than their error, but for zero, to it.
Probability snap(Probability probability) {
    constexpr int unit_bits = PROBABILITY_FRACTION - RESULT_FRACTION_8;
    constexpr uint32_t unit = 1u << unit_bits;
    const ap_uint<unit_bits> part = probability;
    const uint32_t units = probability >> unit_bits;
    const uint32_t close = units >= SNAP_8_LARGE    ? SNAP_8
                           : units >= SNAP_8_MEDIUM ? SNAP_8 / SNAP_8_STEP
                                                    : SNAP_8 / SNAP_8_STEP / SNAP_8_STEP;
    if (part < close && units > 0)
        return probability - part;
    return part >= unit - close ? Probability(probability - part + unit) : probability;
}

// Round so that the results of a row sum to what its probabilities sum to: each result is what the
// running sum grows by in whole units, and the remainder is carried to the next word.
void normalize(hls::stream<Exponentials> &in, hls::stream<Reciprocal> &reciprocals,
               hls::stream<Results> &out, Lengths &lengths, Rows rows, uint8_t format) {
    const bool narrow = format == FORMAT_Q0_8;
    const int fraction = narrow ? RESULT_FRACTION_8 : RESULT_FRACTION_16;
    const int unit_bits = PROBABILITY_FRACTION - fraction;
    const uint32_t largest = (1u << fraction) - 1;
    for (uint32_t row = 0; row < rows.count; row++) {
        const uint32_t valid = lengths.read();
        const Reciprocal scale = reciprocals.read();
        Running remainder = 1u << (unit_bits - 1);
        for (uint32_t word = 0; word < blocks(rows.cols, LANES); word++) {
#pragma HLS PIPELINE II=1
            Exponentials exponentials;
            if (word < blocks(valid, LANES))
                exponentials = in.read();
            else
                for (int lane = 0; lane < LANES; lane++)
                    exponentials[lane] = {0, 0};
            Results results;
            Running sum = 0;
            Running reached = remainder;
            uint32_t before = 0;
            for (int lane = 0; lane < LANES; lane++) {
                const Probability exact = probability(exponentials[lane], scale);
                sum += narrow ? snap(exact) : exact;
                reached = remainder + sum;
                const uint32_t units = reached >> unit_bits;
                results[lane] = smaller(units - before, largest);
                before = units;
            }
            remainder = reached - (Running(before) << unit_bits);
            out.write(results);
        }
    }
}

// Make beats of a row's words, as `unpack` makes words of beats.
void pack(hls::stream<Results> &in, hls::stream<Beat> &out, Rows rows, uint8_t format) {
    const uint32_t nbytes = LANES * FORMAT_NBYTES[format];
    const uint32_t beats = blocks(rows.cols * FORMAT_NBYTES[format], BUS_BYTES);
    for (uint32_t row = 0; row < rows.count; row++) {
        uint32_t words = blocks(rows.cols, LANES);
        uint32_t held = 0;
        Window window = 0;
        for (uint32_t beat = 0; beat < beats;) {
#pragma HLS PIPELINE II=1
            if (held < BUS_BYTES) {
                if (words > 0) {
                    const Results results = in.read();
                    Window bytes = 0;
                    for (int lane = 0; lane < LANES; lane++) {
                        if (format == FORMAT_Q0_8)
                            bytes.range(8 * lane + 7, 8 * lane) = results[lane];
                        else
                            bytes.range(16 * lane + 15, 16 * lane) = results[lane];
                    }
                    window |= bytes << (8 * held);
                    words--;
                }
                held += nbytes;
            }
            if (held >= BUS_BYTES) {
                out.write(window.range(8 * BUS_BYTES - 1, 0));
                window >>= 8 * BUS_BYTES;
                held -= BUS_BYTES;
                beat++;
            }
        }
    }
}

void write_results(hls::stream<Beat> &in, Beat *memory, Rows rows, uint8_t format,
                   uint32_t stride) {
    const uint32_t count = blocks(rows.cols * FORMAT_NBYTES[format], BUS_BYTES);
    for (uint32_t row = 0; row < rows.count; row++) {
        Beat *target = memory + uint64_t(row) * (stride / BUS_BYTES);
        for (uint32_t beat = 0; beat < count; beat++) {
#pragma HLS PIPELINE II=1
            target[beat] = in.read();
        }
    }
}

void stages(const Beat *scores, const ap_uint<32> *lengths, Beat *results, Rows rows,
            uint32_t a_stride, uint32_t o_stride, uint8_t in_format, uint8_t out_format,
            Multiplier multiplier, Shift shift) {
#pragma HLS DATAFLOW
    hls::stream<uint32_t> to_read("to_read");
    hls::stream<uint32_t> to_unpack("to_unpack");
    hls::stream<uint32_t> to_compare("to_compare");
    hls::stream<uint32_t> to_exponentiate("to_exponentiate");
    hls::stream<uint32_t> to_normalize("to_normalize");
    hls::stream<Beat> score_beats("score_beats");
    hls::stream<Scores> arriving("arriving");
    hls::stream<Scores> waiting("waiting");
    hls::stream<Score> maxima("maxima");
    hls::stream<Exponentials> exponentials("exponentials");
    hls::stream<Reciprocal> reciprocals("reciprocals");
    hls::stream<Results> words("words");
    hls::stream<Beat> result_beats("result_beats");
#pragma HLS STREAM variable=to_read depth=64
#pragma HLS STREAM variable=to_unpack depth=64
#pragma HLS STREAM variable=to_compare depth=64
#pragma HLS STREAM variable=to_exponentiate depth=64
#pragma HLS STREAM variable=to_normalize depth=64
#pragma HLS STREAM variable=score_beats depth=64
#pragma HLS STREAM variable=arriving depth=4
#pragma HLS STREAM variable=waiting depth=ROW_DEPTH
#pragma HLS STREAM variable=maxima depth=32
#pragma HLS STREAM variable=exponentials depth=ROW_DEPTH
#pragma HLS STREAM variable=reciprocals depth=32
#pragma HLS STREAM variable=words depth=4
#pragma HLS STREAM variable=result_beats depth=64

    find_lengths(lengths, to_read, to_unpack, to_compare, to_exponentiate, to_normalize, rows);
    read_scores(scores, score_beats, to_read, rows, in_format, a_stride);
    unpack(score_beats, arriving, to_unpack, rows, in_format);
    find_maximum(arriving, waiting, maxima, to_compare, rows);
    exponentiate(waiting, maxima, exponentials, reciprocals, to_exponentiate, rows, multiplier,
                 shift);
    normalize(exponentials, reciprocals, words, to_normalize, rows, out_format);
    pack(words, result_beats, rows, out_format);
    write_results(result_beats, results, rows, out_format, o_stride);
}

}  // namespace

void softmax(const Beat *scores, const ap_uint<32> *lengths, Beat *results, uint32_t m, uint32_t n,
             uint32_t a_stride, uint32_t o_stride, uint8_t in_format, uint8_t out_format,
             uint8_t flags, uint8_t shift, uint32_t multiplier, uint32_t row_offset) {
#pragma HLS INTERFACE m_axi port=scores bundle=scores offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE m_axi port=lengths bundle=lengths offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE m_axi port=results bundle=results offset=slave depth=COSIM_DEPTH
#pragma HLS INTERFACE s_axilite port=scores
#pragma HLS INTERFACE s_axilite port=lengths
#pragma HLS INTERFACE s_axilite port=results
#pragma HLS INTERFACE s_axilite port=m
#pragma HLS INTERFACE s_axilite port=n
#pragma HLS INTERFACE s_axilite port=a_stride
#pragma HLS INTERFACE s_axilite port=o_stride
#pragma HLS INTERFACE s_axilite port=in_format
#pragma HLS INTERFACE s_axilite port=out_format
#pragma HLS INTERFACE s_axilite port=flags
#pragma HLS INTERFACE s_axilite port=shift
#pragma HLS INTERFACE s_axilite port=multiplier
#pragma HLS INTERFACE s_axilite port=row_offset
#pragma HLS INTERFACE s_axilite port=return
    const Rows rows = {m, n, row_offset, (flags & FLAG_CAUSAL) != 0,
                       (flags & FLAG_LENGTHS) != 0};
    stages(scores, lengths, results, rows, a_stride, o_stride, in_format, out_format, multiplier,
           shift);
}
