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

// out <- factor * LN(row) (+ residual); row may be out
static void normalize(const float *row, const float *weight, const float *bias, const float *residual, float factor,
                      float *out, long channels, float eps) {
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
        store(out + c, residual ? y * factor + load(residual + c) : y * factor);
    }
}

// out <- factor * LN(x + shift) + residual; out may be x or residual. `factors` has one for every `per_image` rows; it, the
// shift and the residual may be null.
extern "C" void norm_add(const float *x, const float *shift, const float *weight, const float *bias,
                         const float *residual, const float *factors, float *out, long rows, long channels,
                         long per_image, float eps, long threads) {
    parallel(rows, threads, [=](long r) {
        const float *row = x + r * channels;
        if (shift) {
            float *shifted = scratch(channels);
            for (long c = 0; c < channels; c += LANES) store(shifted + c, load(row + c) + load(shift + c));
            row = shifted;
        }
        normalize(row, weight, bias, residual ? residual + r * channels : nullptr, factors ? factors[r / per_image] : 1.0f,
                  out + r * channels, channels, eps);
    });
}

// out <- GELU(x + y * scale + shift)
extern "C" void add_gelu(const float *x, const float *y, const float *scale, const float *shift, float *out, long rows,
                         long channels, long threads) {
    parallel(rows, threads, [=](long r) {
        const float *p = x + r * channels, *q = y + r * channels;
        for (long c = 0; c < channels; c += LANES)
            store(out + r * channels + c, gelu(load(p + c) + load(q + c) * load(scale + c) + load(shift + c)));
    });
}

// x <- GELU(x + y * scale + shift), y <- LN(x)
extern "C" void add_gelu_norm(float *x, float *y, const float *scale, const float *shift, const float *weight,
                              const float *bias, long rows, long channels, float eps, long threads) {
    parallel(rows, threads, [=](long r) {
        float *p = x + r * channels, *q = y + r * channels;
        for (long c = 0; c < channels; c += LANES)
            store(p + c, gelu(load(p + c) + load(q + c) * load(scale + c) + load(shift + c)));
        normalize(p, weight, bias, nullptr, 1.0f, q, channels, eps);
    });
}

// sum <- x + y, normed <- LN(y); sum may be x, normed may be y
extern "C" void add_norm(const float *x, const float *y, const float *weight, const float *bias, float *sum, float *normed,
                         long rows, long channels, float eps, long threads) {
    parallel(rows, threads, [=](long r) {
        const float *p = x + r * channels, *q = y + r * channels;
        for (long c = 0; c < channels; c += LANES) store(sum + r * channels + c, load(p + c) + load(q + c));
        normalize(q, weight, bias, nullptr, 1.0f, normed + r * channels, channels, eps);
    });
}
