// Kernels of the operators in ciuic/ops, which say what they compute.
// Rows that need a sum or a maximum are shared by GROUP work-items. t: tokens.

#pragma OPENCL FP_CONTRACT OFF  // products and sums are rounded one by one, as in numpy

static float group_sum(float value, local float *scratch) {
    const int me = get_local_id(0);
    scratch[me] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = GROUP / 2; step > 0; step /= 2) {
        if (me < step) scratch[me] += scratch[me + step];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float total = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}

static float group_max(float value, local float *scratch) {
    const int me = get_local_id(0);
    scratch[me] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = GROUP / 2; step > 0; step /= 2) {
        if (me < step) scratch[me] = fmax(scratch[me], scratch[me + step]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float largest = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return largest;
}

// x (t, k) -> values (t, padded_k), zeros at the end, and scales (t).
kernel void quantize_rows(global const float *x, global char *values, global float *scales,
                          const int k, const int padded_k) {
    local float scratch[GROUP];
    const int row = get_group_id(0), me = get_local_id(0);
    x += (size_t)row * k;
    values += (size_t)row * padded_k;
    float largest = 0.0f;
    for (int i = me; i < k; i += GROUP) largest = fmax(largest, fabs(x[i]));
    float scale = group_max(largest, scratch) / 127.0f;
    if (scale == 0.0f) scale = 1.0f;
    for (int i = me; i < padded_k; i += GROUP)
        values[i] = i < k ? convert_char(rint(x[i] / scale)) : (char)0;
    if (me == 0) scales[row] = scale;
}

// One column of ROWS rows. Weights lie as (padded_k / 4, n, 4), so that neighbours read neighbours.
#define LINEAR(NAME, ROWS)                                                                        \
    kernel void NAME(global const char4 *values, global const float *row_scales,                  \
                     global const char4 *weight, global const float *column_scales,               \
                     global const float *bias, global float *y, const int t, const int quads,     \
                     const int n, const int has_bias) {                                           \
        const int col = get_global_id(0), first = get_global_id(1) * ROWS;                        \
        if (col >= n) return;                                                                     \
        int total[ROWS];                                                                          \
        for (int r = 0; r < ROWS; r++) total[r] = 0;                                              \
        for (int q = 0; q < quads; q++) {                                                         \
            const int4 w = convert_int4(weight[(size_t)q * n + col]);                             \
            for (int r = 0; r < ROWS; r++) {                                                      \
                const int row = min(first + r, t - 1);                                            \
                const int4 p = w * convert_int4(values[(size_t)row * quads + q]);                 \
                total[r] += (p.x + p.y) + (p.z + p.w);                                            \
            }                                                                                     \
        }                                                                                         \
        for (int r = 0; r < ROWS && first + r < t; r++) {                                         \
            const int row = first + r;                                                            \
            float result = (float)total[r] * (row_scales[row] * column_scales[col]);              \
            if (has_bias) result = result + bias[col];                                            \
            y[(size_t)row * n + col] = result;                                                    \
        }                                                                                         \
    }
LINEAR(linear_1, 1)
LINEAR(linear_8, 8)

kernel void linear_float32(global const float *x, global const float *weight,
                           global const float *bias, global float *y, const int k, const int n,
                           const int has_bias) {
    const int col = get_global_id(0), row = get_global_id(1);
    if (col >= n) return;
    float total = 0.0f;
    for (int i = 0; i < k; i++) total = fma(x[(size_t)row * k + i], weight[(size_t)i * n + col], total);
    y[(size_t)row * n + col] = has_bias ? total + bias[col] : total;
}

kernel void rms_norm(global const float *x, global const float *weight, global float *y,
                     const int d, const float eps) {
    local float scratch[GROUP];
    const size_t start = (size_t)get_group_id(0) * d;
    const int me = get_local_id(0);
    float total = 0.0f;
    for (int i = me; i < d; i += GROUP) total += x[start + i] * x[start + i];
    const float norm = sqrt(group_sum(total, scratch) / d + eps);
    for (int i = me; i < d; i += GROUP) y[start + i] = x[start + i] / norm * weight[i];
}

// Work-item (pair, head, token).
kernel void rope(global const float *x, global const int *positions,
                 global const float *frequencies, global float *y, const int heads,
                 const int half_dim, const int interleaved) {
    const int pair = get_global_id(0), head = get_global_id(1), token = get_global_id(2);
    const size_t start = ((size_t)token * heads + head) * 2 * half_dim;
    const size_t first = start + (interleaved ? 2 * pair : pair);
    const size_t second = first + (interleaved ? 1 : half_dim);
    const float angle = (float)positions[token] * frequencies[pair];
    const float c = cos(angle), s = sin(angle);
    const float a = x[first], b = x[second];
    y[first] = a * c - b * s;
    y[second] = b * c + a * s;
}

// Scores of (key, head, query); those of keys behind the query are never read.
kernel void attention_scores(global const float *q, global const float *keys,
                             global float *scores, const int heads, const int kv_heads,
                             const int head_dim, const int visible, const int offset,
                             const float scale) {
    const int key = get_global_id(0), head = get_global_id(1), query = get_global_id(2);
    if (key > offset + query) return;
    const int group = heads / kv_heads;
    q += ((size_t)query * heads + head) * head_dim;
    keys += ((size_t)key * kv_heads + head / group) * head_dim;
    float total = 0.0f;
    for (int i = 0; i < head_dim; i++) total += q[i] * keys[i];
    scores[((size_t)query * heads + head) * visible + key] = total * scale;
}

// Rows (rows, cols) of which the first ``first_length + (row / share) * growth`` elements count.
kernel void softmax(global const float *x, global float *y, const int cols, const float scale,
                    const int first_length, const int share, const int growth) {
    local float scratch[GROUP];
    const int row = get_group_id(0), me = get_local_id(0);
    const int length = min(cols, first_length + row / share * growth);
    const size_t start = (size_t)row * cols;
    float largest = -INFINITY;
    for (int i = me; i < length; i += GROUP) largest = fmax(largest, x[start + i] * scale);
    largest = group_max(largest, scratch);
    float total = 0.0f;
    for (int i = me; i < length; i += GROUP) total += exp(x[start + i] * scale - largest);
    total = group_sum(total, scratch);
    for (int i = me; i < cols; i += GROUP)
        y[start + i] = i < length ? exp(x[start + i] * scale - largest) / total : 0.0f;
}

// Work-item (element of the head, head, query).
kernel void attention_mix(global const float *weights, global const float *values, global float *y,
                          const int heads, const int kv_heads, const int head_dim,
                          const int visible, const int offset) {
    const int i = get_global_id(0), head = get_global_id(1), query = get_global_id(2);
    const int group = heads / kv_heads;
    weights += ((size_t)query * heads + head) * visible;
    values += (size_t)(head / group) * head_dim + i;
    float total = 0.0f;
    for (int key = 0; key <= offset + query; key++)
        total += weights[key] * values[(size_t)key * kv_heads * head_dim];
    y[((size_t)query * heads + head) * head_dim + i] = total;
}

kernel void silu_mul(global const float *gate, global const float *up, global float *y) {
    const size_t i = get_global_id(0);
    const float g = gate[i], small = exp(-fabs(g));
    y[i] = g * (g >= 0.0f ? 1.0f : small) / (1.0f + small) * up[i];
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
