// What all kernels begin with. Rows that need a sum or a maximum are shared by GROUP work-items.
// real: double where the device has it, so that results are the CPU's but for the last digits.
// The other names in capitals are in `Tuning` (opencl_tuning.py).

#define GLUE_(a, b) a##b
#define GLUE(a, b) GLUE_(a, b)

typedef REAL real;
typedef GLUE(REAL, 2) real2;

#pragma OPENCL FP_CONTRACT OFF  // products and sums are rounded one by one, as in numpy

static real group_sum(real value, local real *scratch) {
    const int me = get_local_id(0);
    scratch[me] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = GROUP / 2; step > 0; step /= 2) {
        if (me < step) scratch[me] += scratch[me + step];
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const real total = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return total;
}

// The larger of two numbers; not a number if one is not, where fmax would forget it.
static float larger(const float a, const float b) { return a > b || isnan(a) ? a : b; }

static float group_max(float value, local float *scratch) {
    const int me = get_local_id(0);
    scratch[me] = value;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (int step = GROUP / 2; step > 0; step /= 2) {
        if (me < step) scratch[me] = larger(scratch[me], scratch[me + step]);
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    const float largest = scratch[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return largest;
}
