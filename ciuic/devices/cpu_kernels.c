// Kernels of the CPU device, of the operators in ciuic/ops, which say what they compute.
// t: tokens (rows of activations). Compiled at first use by native.py; see there for the flags.
// A kernel finds its arguments in a struct call, in the order that native_calls.py packs them;
// several calls in a row are a program, and `offset` is the one argument that they share. A kernel
// returns 0, or 1 if there is no memory.
//
// A linear layer's weight lies as it does in a model's file: INT8 (n, k), one row an output. Its
// products are exact integers, so that how they are summed changes no bit; the float arithmetic
// around them goes in the order of ciuic/ops/linear.py, without fused multiply-adds.

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct call {
    int (*kernel)(const struct call *, long offset);
    void *arrays[6];  // the result first
    long sizes[6];
    double numbers[2];
};

int ciuic_run(const struct call *calls, long count, long offset) {
    int failed = 0;
    for (long i = 0; i < count && !failed; i++) failed = calls[i].kernel(calls + i, offset);
    return failed;
}

#define LEVELS 127
#define ROWS 4     // activations of a tile: that many products for each weight loaded
#define COLUMNS 4  // outputs of a tile
#define ALIGNMENT 64
#define BLOCK_NBYTES (256 << 10)  // activations that stay in the second-level cache

// Three ways to the same integers. `activation` is how quantized activations are held, LANES how
// many of them one step takes, OFFSET what load_weights adds to each weight: VNNI multiplies
// unsigned by signed bytes, and OFFSET * sum(activations) is taken off again at the end.
#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && !defined(CIUIC_AVX2) && !defined(CIUIC_PLAIN)
#include <immintrin.h>
#define FORM "AVX-512 VNNI"
#define LANES 64
#define OFFSET 128
typedef int8_t activation;
typedef __m512i vector;

static inline vector zeros(void) { return _mm512_setzero_si512(); }
static inline vector load_weights(const int8_t *w) {
    return _mm512_xor_si512(_mm512_loadu_si512(w), _mm512_set1_epi8((char)0x80));
}
static inline vector load_last_weights(const int8_t *w, long count) {
    const __mmask64 mask = ((__mmask64)1 << count) - 1;
    return _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, w), _mm512_set1_epi8((char)0x80));
}
static inline vector load_activations(const activation *x) { return _mm512_load_si512(x); }
static inline vector add_products(vector sum, vector w, vector x) {
    return _mm512_dpbusd_epi32(sum, w, x);
}
static inline __m128i four_lanes(vector sum) {
    const __m256i half =
        _mm256_add_epi32(_mm512_castsi512_si256(sum), _mm512_extracti64x4_epi64(sum, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}

#elif defined(__AVX2__) && !defined(CIUIC_PLAIN)
#include <immintrin.h>
#define FORM "AVX2"
#define LANES 16
#define OFFSET 0
typedef int16_t activation;
typedef __m256i vector;

static inline vector zeros(void) { return _mm256_setzero_si256(); }
static inline vector load_weights(const int8_t *w) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w));
}
static inline vector load_last_weights(const int8_t *w, long count) {
    int8_t last[LANES] = {0};
    memcpy(last, w, count);
    return load_weights(last);
}
static inline vector load_activations(const activation *x) {
    return _mm256_load_si256((const __m256i *)x);
}
static inline vector add_products(vector sum, vector w, vector x) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(w, x));
}
static inline __m128i four_lanes(vector sum) {
    return _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
}

#else  // what the compiler makes of plain loops: NEON on ARM, SSE2 on any x86-64
#define FORM "plain C"
#define OFFSET 0
typedef int16_t activation;
#endif

const char *ciuic_form(void) { return FORM; }

// x (k) -> values (k), zeros up to whole steps, and their sum; returns the scale. A row with a
// value that is not finite has the scale NaN.
static float quantize_row(const float *x, activation *values, long k, long padded, int32_t *sum) {
    int32_t largest_bits = 0;  // magnitudes of floats are ordered as their bits are
    for (long i = 0; i < k; i++) {
        int32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffff;
        largest_bits = bits > largest_bits ? bits : largest_bits;
    }
    float largest;
    memcpy(&largest, &largest_bits, sizeof largest);
    float scale = largest / LEVELS;
    if (scale == 0.0f) scale = 1.0f;
    *sum = 0;
    if (!isfinite(scale)) {
        memset(values, 0, padded * sizeof *values);
        return NAN;
    }
    int32_t all = 0;
    for (long i = 0; i < k; i++) {
        int32_t value = (int32_t)rintf(x[i] / scale);
        value = value > LEVELS ? LEVELS : value < -LEVELS ? -LEVELS : value;  // of subnormal scales
        values[i] = (activation)value;
        all += value;
    }
    memset(values + k, 0, (padded - k) * sizeof *values);
    *sum = all;
    return scale;
}

#ifdef LANES

// How far ahead of use a lone row asks for weights, at least: the rows of a tile are streams too
// short for the hardware's own prefetching.
#define PREFETCH_NBYTES 4096

// Products of activations (rows, k) and weights (columns, k), both counts known when compiled.
static inline __attribute__((always_inline)) void tile(const activation *x, long padded,
                                                       const int8_t *w, long k, int rows,
                                                       int columns, int32_t *products) {
    const long ahead = COLUMNS * k < PREFETCH_NBYTES ? PREFETCH_NBYTES : COLUMNS * k;
    vector sums[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < COLUMNS; c++) sums[r][c] = zeros();
    long i = 0;
    for (; i + LANES <= k; i += LANES) {
        vector weights[COLUMNS];
        for (int c = 0; c < columns; c++) {
            weights[c] = load_weights(w + c * k + i);
            if (rows == 1) __builtin_prefetch(w + c * k + i + ahead);
        }
        for (int r = 0; r < rows; r++) {
            const vector row = load_activations(x + r * padded + i);
            for (int c = 0; c < columns; c++)
                sums[r][c] = add_products(sums[r][c], weights[c], row);
        }
    }
    if (i < k)
        for (int c = 0; c < columns; c++) {
            const vector weights = load_last_weights(w + c * k + i, k - i);
            for (int r = 0; r < rows; r++)
                sums[r][c] = add_products(sums[r][c], weights, load_activations(x + r * padded + i));
        }
    for (int r = 0; r < rows; r++) {
        const __m128i low = _mm_hadd_epi32(four_lanes(sums[r][0]), four_lanes(sums[r][1]));
        const __m128i high = _mm_hadd_epi32(four_lanes(sums[r][2]), four_lanes(sums[r][3]));
        _mm_storeu_si128((__m128i *)(products + r * COLUMNS), _mm_hadd_epi32(low, high));
    }
}

#else

static inline void tile(const activation *x, long padded, const int8_t *w, long k, int rows,
                        int columns, int32_t *products) {
    for (int r = 0; r < rows; r++)
        for (int c = 0; c < columns; c++) {
            int32_t sum = 0;
            for (long i = 0; i < k; i++) sum += (int32_t)x[r * padded + i] * w[c * k + i];
            products[r * COLUMNS + c] = sum;
        }
}

#endif

// Columns j to j + columns of the products of values (rows, padded) and w (n, k), as floats.
static inline __attribute__((always_inline)) void multiply(const activation *values, long padded,
                                                           const int32_t *row_sums, long rows,
                                                           const int8_t *w, long k, int columns,
                                                           float *y, long n) {
    int32_t products[ROWS * COLUMNS];
    for (long r = 0; r < rows;) {
        const int taken = rows - r < ROWS ? 1 : ROWS;
        if (taken == ROWS)
            tile(values + r * padded, padded, w, k, ROWS, columns, products);
        else
            tile(values + r * padded, padded, w, k, 1, columns, products);
        for (int i = 0; i < taken; i++, r++)
            for (int c = 0; c < columns; c++)
                y[r * n + c] = (float)(products[i * COLUMNS + c] - OFFSET * row_sums[r]);
    }
}

// y (t, n), x (t, k), w INT8 (n, k), scales (n), bias (n) or NULL; t, k, n. Each weight is read
// once for every block of activations.
int ciuic_linear(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const float *x = call->arrays[1], *scales = call->arrays[3], *bias = call->arrays[4];
    const int8_t *w = call->arrays[2];
    const long t = call->sizes[0], k = call->sizes[1], n = call->sizes[2];
    (void)offset;
    const long padded = (k + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    const long fitting = BLOCK_NBYTES / (long)(padded * sizeof(activation)) / ROWS * ROWS;
    const long most = fitting < ROWS ? ROWS : fitting, block = t < most ? t : most;
    activation *values = aligned_alloc(ALIGNMENT, block * padded * sizeof *values);
    float *row_scales = malloc(block * sizeof *row_scales);
    int32_t *row_sums = malloc(block * sizeof *row_sums);
    const int failed = !values || !row_scales || !row_sums;
    for (long first = 0; !failed && first < t; first += block) {
        const long rows = t - first < block ? t - first : block;
        for (long r = 0; r < rows; r++)
            row_scales[r] = quantize_row(x + (first + r) * k, values + r * padded, k, padded,
                                         row_sums + r);
        float *part = y + first * n;
        long j = 0;
        for (; j + COLUMNS <= n; j += COLUMNS)
            multiply(values, padded, row_sums, rows, w + j * k, k, COLUMNS, part + j, n);
        for (; j < n; j++) multiply(values, padded, row_sums, rows, w + j * k, k, 1, part + j, n);
        for (long r = 0; r < rows; r++, part += n)
            for (j = 0; j < n; j++) {
                const float value = part[j] * (row_scales[r] * scales[j]);
                part[j] = bias ? value + bias[j] : value;
            }
    }
    free(values);
    free(row_scales);
    free(row_sums);
    return failed;
}

// Float arithmetic with more than one rounding goes in double and is rounded once, as everywhere
// (ciuic/ops/operator.py). Sums have WIDE parts, so that they can go side by side.
#define WIDE 8
typedef double doubles __attribute__((vector_size(8 * WIDE)));
typedef float floats __attribute__((vector_size(4 * WIDE), aligned(4)));

static inline doubles widened(const float *x) {
    floats v;
    memcpy(&v, x, sizeof v);
    return __builtin_convertvector(v, doubles);
}

// a is widened already: it is multiplied with many b.
static inline double dot(const double *a, const float *b, long count) {
    doubles even = {0}, odd = {0};
    long i = 0;
    for (; i + 2 * WIDE <= count; i += 2 * WIDE) {
        doubles first, second;
        memcpy(&first, a + i, sizeof first);
        memcpy(&second, a + i + WIDE, sizeof second);
        even += first * widened(b + i);
        odd += second * widened(b + i + WIDE);
    }
    double rest = 0;
    for (; i < count; i++) rest += a[i] * b[i];
    const doubles s = even + odd;
    return ((s[0] + s[1]) + (s[2] + s[3])) + ((s[4] + s[5]) + (s[6] + s[7])) + rest;
}

// e to the power of x <= 0, without branches, so that loops over it become vectors: x is
// n * ln(2) + r with the integer n in the low bits of x / ln(2) + 1.5 * 2**52, and e**r is its
// Taylor series, whose first term left out is below 2**-57.
static inline double exponential(double x) {
    const double inverses[] = {1.0 / 6227020800, 1.0 / 479001600, 1.0 / 39916800, 1.0 / 3628800,
                               1.0 / 362880,     1.0 / 40320,     1.0 / 5040,     1.0 / 720,
                               1.0 / 120,        1.0 / 24,        1.0 / 6,        0.5,
                               1.0,              1.0};
    x = x < -708.0 ? -708.0 : x;  // below, results would be subnormal doubles; they are 0 as floats
    const double shifted = x * 1.4426950408889634 + 6755399441055744.0;
    const double n = shifted - 6755399441055744.0;
    const double r = (x - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
    double power = inverses[0];
    for (int i = 1; i < 14; i++) power = power * r + inverses[i];
    int64_t bits, exponent;
    memcpy(&bits, &power, sizeof bits);
    memcpy(&exponent, &shifted, sizeof exponent);
    bits += (int64_t)((uint64_t)exponent << 52);
    memcpy(&power, &bits, sizeof power);
    return power;
}

// y, a, b (count); count.
int ciuic_add(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const float *a = call->arrays[1], *b = call->arrays[2];
    (void)offset;
    for (long i = 0; i < call->sizes[0]; i++) y[i] = a[i] + b[i];
    return 0;
}

// y, gate, up (count); count.
int ciuic_silu_mul(const struct call *call, long offset) {
    float *restrict y = call->arrays[0];
    const float *gate = call->arrays[1], *up = call->arrays[2];
    (void)offset;
    for (long i = 0; i < call->sizes[0]; i++) {
        const double exact = gate[i], small = exponential(-fabs(exact));
        y[i] = (float)(exact * ((exact >= 0 ? 1.0 : small) / (1.0 + small)) * up[i]);
    }
    return 0;
}

// y, x (count); count, block. A block of y is x's times a Hadamard matrix.
int ciuic_hadamard(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const long count = call->sizes[0], block = call->sizes[1];
    (void)offset;
    memcpy(y, call->arrays[1], count * sizeof *y);
    for (long half = 1; half < block; half *= 2) {
        for (long start = 0; start < count; start += 2 * half) {
            float *restrict first = y + start, *restrict second = first + half;
            for (long i = 0; i < half; i++) {
                const float sum = first[i] + second[i];
                second[i] = first[i] - second[i];
                first[i] = sum;
            }
        }
    }
    return 0;
}

// y, x (t, d), weight (d); t, d; eps.
int ciuic_rms_norm(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const float *x = call->arrays[1], *weight = call->arrays[2];
    const long t = call->sizes[0], d = call->sizes[1];
    (void)offset;
    double *exact = malloc(d * sizeof *exact);
    for (long row = 0; exact && row < t; row++, x += d, y += d) {
        for (long i = 0; i < d; i++) exact[i] = x[i];
        const double root = sqrt(dot(exact, x, d) / d + (float)call->numbers[0]);
        for (long i = 0; i < d; i++) y[i] = (float)(exact[i] / root * weight[i]);
    }
    const int failed = !exact;
    free(exact);
    return failed;
}

// y, x (t, heads, 2 * half), positions int32 (t), frequencies (half); t, heads, half, interleaved.
int ciuic_rope(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const float *x = call->arrays[1], *frequencies = call->arrays[3];
    const int32_t *positions = call->arrays[2];
    const long t = call->sizes[0], heads = call->sizes[1], half = call->sizes[2];
    const long step = call->sizes[3] ? 2 : 1, other = call->sizes[3] ? 1 : half;
    (void)offset;
    for (long token = 0; token < t; token++)
        for (long i = 0; i < half; i++) {
            const double angle = (float)positions[token] * frequencies[i];
            const double cosine = cos(angle), sine = sin(angle);
            for (long head = 0; head < heads; head++) {
                const long at = (token * heads + head) * 2 * half + step * i;
                const double a = x[at], b = x[at + other];
                y[at] = (float)(a * cosine - b * sine);
                y[at + other] = (float)(b * cosine + a * sine);
            }
        }
    return 0;
}

// cache (slots, width), rows (t, width); t, width. The rows go to the slots from ``offset`` on.
int ciuic_kv_append(const struct call *call, long offset) {
    const long t = call->sizes[0], width = call->sizes[1];
    memcpy((float *)call->arrays[0] + offset * width, call->arrays[1], t * width * sizeof(float));
    return 0;
}

// shares (visible): the softmax of scores (visible).
static void softmax(double *shares, const float *scores, long visible) {
    float largest = scores[0];
    for (long j = 1; j < visible; j++) largest = scores[j] > largest ? scores[j] : largest;
    for (long j = 0; j < visible; j++) shares[j] = exponential((double)scores[j] - largest);
    double sum = 0;
    for (long j = 0; j < visible; j++) sum += shares[j];
    for (long j = 0; j < visible; j++) shares[j] /= sum;
}

// y (width) = shares (visible) times values (visible, width), rows ``stride`` apart; in registers.
#define REGISTERS 8
static void mix(float *y, const double *shares, const float *values, long stride, long visible,
                long width) {
    long i = 0;
    for (; i + REGISTERS * WIDE <= width; i += REGISTERS * WIDE) {
        doubles sums[REGISTERS] = {{0}};
        for (long j = 0; j < visible; j++)
            for (int r = 0; r < REGISTERS; r++)
                sums[r] += shares[j] * widened(values + j * stride + i + r * WIDE);
        for (int r = 0; r < REGISTERS; r++)
            for (int lane = 0; lane < WIDE; lane++) y[i + r * WIDE + lane] = (float)sums[r][lane];
    }
    for (; i < width; i++) {
        double sum = 0;
        for (long j = 0; j < visible; j++) sum += shares[j] * values[j * stride + i];
        y[i] = (float)sum;
    }
}

// y (t, heads * head_dim), q (t, heads, head_dim), keys, values (slots, kv_heads, head_dim);
// t, heads, kv_heads, head_dim; scale. Query i sees the slots up to offset + i.
int ciuic_attention(const struct call *call, long offset) {
    float *y = call->arrays[0];
    const float *q = call->arrays[1], *keys = call->arrays[2], *values = call->arrays[3];
    const long t = call->sizes[0], heads = call->sizes[1], kv_heads = call->sizes[2];
    const long head_dim = call->sizes[3], stride = kv_heads * head_dim, group = heads / kv_heads;
    const float scale = (float)call->numbers[0];
    float *scores = malloc((offset + t) * sizeof *scores);
    double *shares = malloc((offset + t) * sizeof *shares);
    double *query = malloc(head_dim * sizeof *query);
    const int failed = !scores || !shares || !query;
    for (long row = 0; !failed && row < t * heads; row++, q += head_dim, y += head_dim) {
        const long visible = offset + row / heads + 1, shared = row % heads / group * head_dim;
        for (long i = 0; i < head_dim; i++) query[i] = q[i];
        for (long j = 0; j < visible; j++)
            scores[j] = (float)(dot(query, keys + j * stride + shared, head_dim) * scale);
        softmax(shares, scores, visible);
        mix(y, shares, values + shared, stride, visible, head_dim);
    }
    free(scores);
    free(shares);
    free(query);
    return failed;
}

// Reads memory as fast as one thread can: the limit that decoding is measured against.
int64_t ciuic_read(const void *data, long nbytes) {
    typedef int64_t integers __attribute__((vector_size(64), aligned(8), may_alias));
    const integers *from = data;
    integers sums[4] = {{0}};
    for (long i = 0; i + 4 <= nbytes / 64; i += 4)
        for (int j = 0; j < 4; j++) {
            __builtin_prefetch(from + i + j + 64);
            sums[j] += from[i + j];
        }
    const integers all = sums[0] + sums[1] + sums[2] + sums[3];
    int64_t sum = 0;
    for (int lane = 0; lane < 8; lane++) sum += all[lane];
    return sum;
}
