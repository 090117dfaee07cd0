// Kernels of the operators that DeepSeek's layers have beside those of opencl_kernels.cl, which
// goes before them. What they compute: ciuic/ops/latent_attention.py and experts.py.

// Sums over ``depth`` for each head: work-item (column, head, row). Strides say whether heads
// share x, and whether the weight is read as it lies or transposed.
kernel void head_product(global const float *x, global const float *weight, global float *y,
                         const int depth, const int x_row, const int x_head, const int w_depth,
                         const int w_head, const int w_column) {
    const int column = get_global_id(0), head = get_global_id(1), row = get_global_id(2);
    x += (size_t)row * x_row + (size_t)head * x_head;
    weight += (size_t)head * w_head + (size_t)column * w_column;
    real total = 0;
    for (int i = 0; i < depth; i++) total += (real)x[i] * weight[(size_t)i * w_depth];
    y[((size_t)row * get_global_size(1) + head) * get_global_size(0) + column] = total;
}

// Scores of (key, head, query) from keys (visible, key_heads, dim) and rotary keys (visible,
// rope_dim) that all heads share; those of keys behind the query are never read.
kernel void latent_scores(global const float *q, global const float *keys,
                          global const float *q_rope, global const float *rope_keys,
                          global float *scores, const int key_heads, const int dim,
                          const int rope_dim, const int visible, const int offset,
                          const float scale, const float rope_gain) {
    const int key = get_global_id(0), head = get_global_id(1), query = get_global_id(2);
    if (key > offset + query) return;
    const int heads = get_global_size(1);
    const size_t row = (size_t)query * heads + head;
    q += row * dim;
    q_rope += row * rope_dim;
    keys += ((size_t)key * key_heads + (key_heads == 1 ? 0 : head)) * dim;
    rope_keys += (size_t)key * rope_dim;
    real total = 0, rotary = 0;
    for (int i = 0; i < dim; i++) total += (real)q[i] * keys[i];
    for (int i = 0; i < rope_dim; i++) rotary += (real)q_rope[i] * rope_keys[i];
    scores[row * visible + key] = (total + rotary * rope_gain) * scale;
}

// Work-item (expert, token).
kernel void route_scores(global const float *x, global const float *weight, global real *affinity,
                         const int d) {
    const int expert = get_global_id(0), token = get_global_id(1), experts = get_global_size(0);
    real total = 0;
    for (int i = 0; i < d; i++)
        total += (real)x[(size_t)token * d + i] * weight[(size_t)i * experts + expert];
    affinity[(size_t)token * experts + expert] = total;
}

// The place of the largest of ``count`` values that are not taken; the first of equals.
static int best(global const real *values, const int count) {
    int found = 0;
    for (int i = 1; i < count; i++)
        if (values[i] > values[found]) found = i;
    return found;
}

// A token's scores become affinities, the largest are chosen. Work-item (token). ``choice``
// (t, experts) and ``group_scores`` (t, groups) are for values in between.
kernel void route_choose(global real *affinity, global const float *bias, global real *choice,
                         global real *group_scores, global float *shares, const int experts,
                         const int top_k, const int n_group, const int topk_group,
                         const int softmax_scoring, const int group_best, const int normalize,
                         const real scale, const real smallest_sum) {
    const int token = get_global_id(0), size = experts / n_group;
    affinity += (size_t)token * experts;
    choice += (size_t)token * experts;
    group_scores += (size_t)token * n_group;
    shares += (size_t)token * experts;
    real sum = 0;
    const real largest = affinity[best(affinity, experts)];
    for (int i = 0; i < experts; i++) {
        affinity[i] = softmax_scoring ? exp(affinity[i] - largest) : 1 / (1 + exp(-affinity[i]));
        sum += affinity[i];
    }
    for (int i = 0; i < experts; i++) {
        if (softmax_scoring) affinity[i] /= sum;
        choice[i] = affinity[i] + bias[i];
        shares[i] = 0.0f;
    }
    if (topk_group < n_group) {
        for (int group = 0; group < n_group; group++) {
            real first = -INFINITY, second = -INFINITY;
            for (int i = group * size; i < (group + 1) * size; i++) {
                if (choice[i] > first) {
                    second = first;
                    first = choice[i];
                } else if (choice[i] > second) {
                    second = choice[i];
                }
            }
            group_scores[group] = group_best == 2 && size > 1 ? first + second : first;
        }
        for (int closed = 0; closed < topk_group; closed++)  // the open ones are marked
            group_scores[best(group_scores, n_group)] = -INFINITY;
        for (int i = 0; i < experts; i++)
            if (group_scores[i / size] != -INFINITY) choice[i] = -INFINITY;
    }
    real total = 0;
    for (int k = 0; k < top_k; k++) {
        const int expert = best(choice, experts);
        choice[expert] = -INFINITY;
        total += affinity[expert];
        shares[expert] = 1.0f;
    }
    const real norm = normalize ? total + smallest_sum : 1;
    for (int i = 0; i < experts; i++)
        if (shares[i] != 0.0f) shares[i] = affinity[i] / norm * scale;
}

// Work-item (column, row); rows of y are distinct.
kernel void add_rows(global const float *rows, global const int *ids, global const float *shares,
                     global float *y, const int d) {
    const int i = get_global_id(0), row = get_global_id(1);
    const size_t at = (size_t)ids[row] * d + i;
    y[at] = y[at] + shares[row] * rows[(size_t)row * d + i];
}
