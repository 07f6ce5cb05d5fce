// Steps that see one cell of a map at a time. Maps are (rows, channels), contiguous; channels are a multiple of 8.
#include "vector.h"

// out <- GELU(x * scale + shift); out may be x
extern "C" void affine_gelu(const float *x, const float *scale, const float *shift, float *out, long rows, long channels,
                            long threads) {
    parallel(rows, threads, [=](long r) {
        const float *p = x + r * channels;
        for (long c = 0; c < channels; c += LANES)
            store(out + r * channels + c, gelu(load(p + c) * load(scale + c) + load(shift + c)));
    });
}

// out <- LN(row) (+ residual), the row in a thread's own memory
static void normalize(const float *row, const float *weight, const float *bias, const float *residual, float *out,
                      long channels, float eps) {
    vec total = splat(0), squares = splat(0);
    for (long c = 0; c < channels; c += LANES) total += load(row + c);
    vec mean = splat(sum(total) / channels);
    for (long c = 0; c < channels; c += LANES) {
        vec d = load(row + c) - mean;
        squares += d * d;
    }
    vec scale = splat(1.0f / __builtin_sqrtf(sum(squares) / channels + eps));
    for (long c = 0; c < channels; c += LANES) {
        vec y = (load(row + c) - mean) * scale * load(weight + c) + load(bias + c);
        store(out + c, residual ? y + load(residual + c) : y);
    }
}

// out <- LN(x + shift) + residual; out may be x or residual
extern "C" void norm_add(const float *x, const float *shift, const float *weight, const float *bias,
                         const float *residual, float *out, long rows, long channels, float eps, long threads) {
    parallel(rows, threads, [=](long r) {
        float *row = scratch(channels);
        for (long c = 0; c < channels; c += LANES) store(row + c, load(x + r * channels + c) + load(shift + c));
        normalize(row, weight, bias, residual + r * channels, out + r * channels, channels, eps);
    });
}

// x <- GELU(x + y * scale + shift), y <- LN(x)
extern "C" void add_gelu_norm(float *x, float *y, const float *scale, const float *shift, const float *weight,
                              const float *bias, long rows, long channels, float eps, long threads) {
    parallel(rows, threads, [=](long r) {
        float *p = x + r * channels, *q = y + r * channels;
        for (long c = 0; c < channels; c += LANES)
            store(p + c, gelu(load(p + c) + load(q + c) * load(scale + c) + load(shift + c)));
        normalize(p, weight, bias, nullptr, q, channels, eps);
    });
}

// x <- x + y, y <- LN(y)
extern "C" void add_norm(float *x, float *y, const float *weight, const float *bias, long rows, long channels, float eps,
                         long threads) {
    parallel(rows, threads, [=](long r) {
        float *p = x + r * channels, *q = y + r * channels;
        for (long c = 0; c < channels; c += LANES) store(p + c, load(p + c) + load(q + c));
        normalize(q, weight, bias, nullptr, q, channels, eps);
    });
}
