// Kernels of the operators in ciuic/ops, which say what they compute.
// The prelude goes before them. t: tokens.

typedef GLUE(REAL, LANES) reals;
#define TO_REALS GLUE(GLUE(convert_, REAL), LANES)
#define LOAD_LANES GLUE(vload, LANES)
#define STORE_LANES GLUE(vstore, LANES)

// x (t, k) -> values (t, k), integers held as float32, and scales (t).
kernel void quantize_rows(global const float *x, global float *values, global float *scales,
                          const int k) {
    local float scratch[GROUP];
    const int row = get_group_id(0), me = get_local_id(0);
    x += (size_t)row * k;
    values += (size_t)row * k;
    float largest = 0.0f;
    for (int i = me; i < k; i += GROUP) largest = fmax(largest, fabs(x[i]));
    float scale = group_max(largest, scratch) / 127.0f;
    if (scale == 0.0f) scale = 1.0f;
    for (int i = me; i < k; i += GROUP) values[i] = rint(x[i] / scale);
    if (me == 0) scales[row] = scale;
}

// INT8 weights lie as (n / BLOCK, k, BLOCK); a work-item computes COLUMNS neighbouring columns.
// Products are summed in float32, exactly: at most EXACT_TERMS at a time, then as integers.
typedef GLUE(float, COLUMNS) floats;
typedef GLUE(int, COLUMNS) ints;
#define LOAD GLUE(vload, COLUMNS)
#define STORE GLUE(vstore, COLUMNS)
#define TO_FLOATS GLUE(convert_float, COLUMNS)
#define TO_INTS GLUE(convert_int, COLUMNS)

static global const char *columns_of(global const char *weight, const int col, const int k) {
    return weight + (size_t)(col / BLOCK) * k * BLOCK + col % BLOCK;
}

// Row of y from its accumulators; scales and bias are padded to whole blocks, y is not.
static void rescale(const floats total, const float row_scale, global const float *column_scales,
                    global const float *bias, global float *y, const int col, const int n,
                    const int has_bias) {
    floats result = total * (row_scale * LOAD(0, column_scales + col));
    if (has_bias) result = result + LOAD(0, bias + col);
    if (col + COLUMNS <= n) {
        STORE(result, 0, y + col);
    } else {
        float parts[COLUMNS];
        STORE(result, 0, parts);
        for (int i = 0; col + i < n; i++) y[col + i] = parts[i];
    }
}

kernel LONE void linear_row(global const float *x, global const float *row_scales,
                            global const char *weight, global const float *column_scales,
                            global const float *bias, global float *y, const int t, const int k,
                            const int n, const int has_bias) {
    const int col = get_global_id(0) * COLUMNS;
    global const char *w = columns_of(weight, col, k);
    ints total = 0;
    for (int start = 0; start < k; start += EXACT_TERMS) {
        const int stop = min(start + EXACT_TERMS, k);
        floats a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;  // four sums hide the latency of one
        int i = start;
        for (; i + 4 <= stop; i += 4) {
            a = fma((floats)x[i], TO_FLOATS(LOAD(0, w + i * BLOCK)), a);
            b = fma((floats)x[i + 1], TO_FLOATS(LOAD(0, w + (i + 1) * BLOCK)), b);
            c = fma((floats)x[i + 2], TO_FLOATS(LOAD(0, w + (i + 2) * BLOCK)), c);
            d = fma((floats)x[i + 3], TO_FLOATS(LOAD(0, w + (i + 3) * BLOCK)), d);
        }
        for (; i < stop; i++) a = fma((floats)x[i], TO_FLOATS(LOAD(0, w + i * BLOCK)), a);
        total += TO_INTS((a + b) + (c + d));
    }
    rescale(TO_FLOATS(total), row_scales[0], column_scales, bias, y, col, n, has_bias);
}

kernel LONE void linear_rows(global const float *x, global const float *row_scales,
                             global const char *weight, global const float *column_scales,
                             global const float *bias, global float *y, const int t, const int k,
                             const int n, const int has_bias) {
    const int col = get_global_id(0) * COLUMNS, first = get_global_id(1) * ROWS;
    global const char *w = columns_of(weight, col, k);
    global const float *rows[ROWS];  // beyond the last row the last again
    ints total[ROWS];
    for (int r = 0; r < ROWS; r++) {
        rows[r] = x + (size_t)min(first + r, t - 1) * k;
        total[r] = 0;
    }
    for (int start = 0; start < k; start += EXACT_TERMS) {
        const int stop = min(start + EXACT_TERMS, k);
        floats sum[ROWS];
        for (int r = 0; r < ROWS; r++) sum[r] = 0.0f;
        for (int i = start; i < stop; i++) {
            const floats column = TO_FLOATS(LOAD(0, w + i * BLOCK));
            for (int r = 0; r < ROWS; r++) sum[r] = fma((floats)rows[r][i], column, sum[r]);
        }
        for (int r = 0; r < ROWS; r++) total[r] += TO_INTS(sum[r]);
    }
    for (int r = 0; r < ROWS && first + r < t; r++)
        rescale(TO_FLOATS(total[r]), row_scales[first + r], column_scales, bias,
                y + (size_t)(first + r) * n, col, n, has_bias);
}

// A work-item has a block.
kernel void hadamard(global const float *x, global float *y, const int block) {
    float part[LARGEST_BLOCK];
    x += get_global_id(0) * block;
    y += get_global_id(0) * block;
    for (int i = 0; i < block; i++) part[i] = x[i];
    for (int distance = 1; distance < block; distance *= 2) {
        for (int i = 0; i < block; i++) {
            if (i & distance) continue;
            const float first = part[i], second = part[i + distance];
            part[i] = first + second;
            part[i + distance] = first - second;
        }
    }
    for (int i = 0; i < block; i++) y[i] = part[i];
}

// INT4 weights lie as INT8 ones do; scales and offsets of groups as (n / BLOCK, groups, BLOCK).
// Sums of a group are exact in float32, those of all groups in 64 bits. Work-item (columns, row).
typedef GLUE(long, COLUMNS) longs;
#define TO_LONGS GLUE(convert_long, COLUMNS)

static longs rounded(const longs total) {  // half to even: a unit more before odd quotients
    return (total + ((1 << (W4_SHIFT - 1)) - 1) + ((total >> W4_SHIFT) & 1)) >> W4_SHIFT;
}

kernel LONE void linear_int4(global const float *x, global const float *row_scales,
                             global const char *weight, global const short *group_scales,
                             global const int *offsets, global const float *units,
                             global const float *bias, global float *y, const int k, const int n,
                             const int has_offsets, const int has_bias) {
    const int col = get_global_id(0) * COLUMNS, row = get_global_id(1);
    const int groups = (k + W4_GROUP - 1) / W4_GROUP;
    const size_t first = (size_t)(col / BLOCK) * groups * BLOCK + col % BLOCK;
    global const char *w = columns_of(weight, col, k);
    x += (size_t)row * k;
    longs total = 0, share = 0;
    for (int group = 0; group < groups; group++) {
        floats sum = 0.0f;
        float all = 0.0f;
        for (int i = group * W4_GROUP; i < min((group + 1) * W4_GROUP, k); i++) {
            sum = fma((floats)x[i], TO_FLOATS(LOAD(0, w + i * BLOCK)), sum);
            all += x[i];
        }
        total += TO_LONGS(sum) * TO_LONGS(LOAD(0, group_scales + first + group * BLOCK));
        if (has_offsets) share += (long)all * TO_LONGS(LOAD(0, offsets + first + group * BLOCK));
    }
    const floats sums = TO_FLOATS(rounded(total) + rounded(share));
    rescale(sums, row_scales[row], units, bias, y + (size_t)row * n, col, n, has_bias);
}

// The columns of a work-item of the float32 products: whole vectors, the last ones overlapping
// with those before, so that nothing is read beyond a row. ``n`` is at least COLUMNS.
static int own_columns(const int n) {
    return min((int)get_global_id(0) * COLUMNS, n - COLUMNS);
}

kernel LONE void float32_row(global const float *x, global const float *weight,
                             global const float *bias, global float *y, const int t, const int k,
                             const int n, const int has_bias) {
    const int col = own_columns(n);
    global const float *w = weight + col;
    floats a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;  // four sums hide the latency of one
    int i = 0;
    for (; i + 4 <= k; i += 4, w += 4 * (size_t)n) {
        a = fma((floats)x[i], LOAD(0, w), a);
        b = fma((floats)x[i + 1], LOAD(0, w + n), b);
        c = fma((floats)x[i + 2], LOAD(0, w + 2 * (size_t)n), c);
        d = fma((floats)x[i + 3], LOAD(0, w + 3 * (size_t)n), d);
    }
    for (; i < k; i++, w += n) a = fma((floats)x[i], LOAD(0, w), a);
    const floats total = (a + b) + (c + d);
    STORE(has_bias ? total + LOAD(0, bias + col) : total, 0, y + col);
}

kernel LONE void float32_rows(global const float *x, global const float *weight,
                              global const float *bias, global float *y, const int t, const int k,
                              const int n, const int has_bias) {
    const int col = own_columns(n), first = get_global_id(1) * ROWS;
    global const float *w = weight + col;
    global const float *rows[ROWS];  // beyond the last row the last again
    floats sum[ROWS];
    for (int r = 0; r < ROWS; r++) {
        rows[r] = x + (size_t)min(first + r, t - 1) * k;
        sum[r] = 0.0f;
    }
    for (int i = 0; i < k; i++, w += n) {
        const floats column = LOAD(0, w);
        for (int r = 0; r < ROWS; r++) sum[r] = fma((floats)rows[r][i], column, sum[r]);
    }
    for (int r = 0; r < ROWS && first + r < t; r++) {
        if (has_bias) sum[r] = sum[r] + LOAD(0, bias + col);
        STORE(sum[r], 0, y + (size_t)(first + r) * n + col);
    }
}

// Work-item (column, row), for weights with fewer columns than a vector.
kernel void float32_narrow(global const float *x, global const float *weight,
                           global const float *bias, global float *y, const int t, const int k,
                           const int n, const int has_bias) {
    const int col = get_global_id(0), row = get_global_id(1);
    float total = 0.0f;
    for (int i = 0; i < k; i++)
        total = fma(x[(size_t)row * k + i], weight[(size_t)i * n + col], total);
    y[(size_t)row * n + col] = has_bias ? total + bias[col] : total;
}

kernel void rms_norm(global const float *x, global const float *weight, global float *y,
                     const int d, const float eps) {
    local real scratch[GROUP];
    const size_t start = (size_t)get_group_id(0) * d;
    const int me = get_local_id(0);
    real total = 0;
    for (int i = me; i < d; i += GROUP) total += (real)x[start + i] * x[start + i];
    const real norm = sqrt(group_sum(total, scratch) / d + eps);
    for (int i = me; i < d; i += GROUP) y[start + i] = x[start + i] / norm * weight[i];
}

// Work-item (pair, head, token).
kernel void rope(global const float *x, global const int *positions,
                 global const float *frequencies, global float *y, const int heads,
                 const int distancedim, const int interleaved) {
    const int pair = get_global_id(0), head = get_global_id(1), token = get_global_id(2);
    const size_t start = ((size_t)token * heads + head) * 2 * distancedim;
    const size_t first = start + (interleaved ? 2 * pair : pair);
    const size_t second = first + (interleaved ? 1 : distancedim);
    const float angle = (float)positions[token] * frequencies[pair];
    const real c = cos((real)angle), s = sin((real)angle);
    const float a = x[first], b = x[second];
    y[first] = a * c - b * s;
    y[second] = b * c + a * s;
}

// Scores of (key, head, query); those of keys behind the query are never read.
kernel LONE void attention_scores(global const float *q, global const float *keys,
                                  global float *scores, const int heads, const int kv_heads,
                                  const int head_dim, const int visible, const int offset,
                                  const float scale) {
    const int key = get_global_id(0), head = get_global_id(1), query = get_global_id(2);
    if (key > offset + query) return;
    const int group = heads / kv_heads;
    q += ((size_t)query * heads + head) * head_dim;
    keys += ((size_t)key * kv_heads + head / group) * head_dim;
    reals sums = 0;
    int i = 0;
    for (; i + LANES <= head_dim; i += LANES)
        sums = fma(TO_REALS(LOAD_LANES(0, q + i)), TO_REALS(LOAD_LANES(0, keys + i)), sums);
    real parts[LANES];
    STORE_LANES(sums, 0, parts);
    real total = 0;
    for (; i < head_dim; i++) total += (real)q[i] * keys[i];
    for (int lane = 0; lane < LANES; lane++) total += parts[lane];
    scores[((size_t)query * heads + head) * visible + key] = total * scale;
}

// The largest of ``length`` scaled scores and the sum of their exponentials over it.
static real2 softmax_row(global const float *x, const int length, const float scale,
                         local float *floats_scratch, local real *scratch) {
    const int me = get_local_id(0);
    float largest = -INFINITY;
    for (int i = me; i < length; i += GROUP) largest = larger(largest, x[i] * scale);
    largest = group_max(largest, floats_scratch);
    real total = 0;
    for (int i = me; i < length; i += GROUP) total += exp((real)(x[i] * scale) - largest);
    return (real2)(largest, group_sum(total, scratch));
}

kernel void softmax(global const float *x, global float *y, const int cols, const float scale) {
    local float floats_scratch[GROUP];
    local real scratch[GROUP];
    x += (size_t)get_group_id(0) * cols;
    y += (size_t)get_group_id(0) * cols;
    const real2 row = softmax_row(x, cols, scale, floats_scratch, scratch);
    for (int i = get_local_id(0); i < cols; i += GROUP)
        y[i] = exp((real)(x[i] * scale) - row.x) / row.y;
}

// Softmax of scores (queries * heads, visible) over the keys that each query sees; others get 0.
kernel void attention_weights(global const float *scores, global real *weights, const int heads,
                              const int visible, const int offset) {
    local float floats_scratch[GROUP];
    local real scratch[GROUP];
    const int row = get_group_id(0), me = get_local_id(0), length = offset + row / heads + 1;
    scores += (size_t)row * visible;
    weights += (size_t)row * visible;
    const real2 sums = softmax_row(scores, length, 1.0f, floats_scratch, scratch);
    for (int i = me; i < length; i += GROUP) weights[i] = exp(scores[i] - sums.x) / sums.y;
    for (int i = length + me; i < visible; i += GROUP) weights[i] = 0;
}

static reals load_reals(global const float *x, const int count) {
    if (count == LANES) return TO_REALS(LOAD_LANES(0, x));
    real parts[LANES] = {0};
    for (int i = 0; i < count; i++) parts[i] = x[i];
    return LOAD_LANES(0, parts);
}

static void store_reals(const reals values, global float *y, const int count) {
    real parts[LANES];
    STORE_LANES(values, 0, parts);
    for (int i = 0; i < count; i++) y[i] = parts[i];
}

// LANES elements of a head for ``queries`` queries, which share what is read of the values.
static void mix(global const real *weights, global const float *values, global float *y,
                const int heads, const int kv_heads, const int head_dim, const int visible,
                const int offset, const int queries) {
    const int lane = get_global_id(0) * LANES, head = get_global_id(1);
    const int first = get_global_id(2) * queries, last = min(first + queries, visible - offset) - 1;
    const int count = min(LANES, head_dim - lane);
    global const real *rows[ROWS];  // beyond the last query the last again
    reals sums[ROWS];
    for (int r = 0; r < queries; r++) {
        rows[r] = weights + ((size_t)min(first + r, last) * heads + head) * visible;
        sums[r] = 0;
    }
    values += (size_t)(head / (heads / kv_heads)) * head_dim + lane;
    for (int key = 0; key <= offset + last; key++, values += (size_t)kv_heads * head_dim) {
        const reals value = load_reals(values, count);
        for (int r = 0; r < queries; r++) sums[r] = fma((reals)rows[r][key], value, sums[r]);
    }
    for (int r = 0; first + r <= last; r++)
        store_reals(sums[r], y + ((size_t)(first + r) * heads + head) * head_dim + lane, count);
}

kernel LONE void attention_mix_row(global const real *weights, global const float *values,
                                   global float *y, const int heads, const int kv_heads,
                                   const int head_dim, const int visible, const int offset) {
    mix(weights, values, y, heads, kv_heads, head_dim, visible, offset, 1);
}

kernel LONE void attention_mix_rows(global const real *weights, global const float *values,
                                    global float *y, const int heads, const int kv_heads,
                                    const int head_dim, const int visible, const int offset) {
    mix(weights, values, y, heads, kv_heads, head_dim, visible, offset, ROWS);
}

kernel void silu_mul(global const float *gate, global const float *up, global float *y) {
    const size_t i = get_global_id(0);
    const real g = gate[i], small = exp(-fabs(g));
    y[i] = g * ((g >= 0 ? 1 : small) / (1 + small)) * up[i];
}

kernel void add(global const float *x, global const float *y, global float *z) {
    const size_t i = get_global_id(0);
    z[i] = x[i] + y[i];
}

kernel void embedding(global const int *ids, global const float *table, global float *y,
                      const int d) {
    const int i = get_global_id(0), token = get_global_id(1);
    y[(size_t)token * d + i] = table[(size_t)ids[token] * d + i];
}
