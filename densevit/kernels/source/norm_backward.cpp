// Gradients of norms and GELU in training. Maps are (rows, channels), contiguous; channels are a multiple of 8.
#include "vector.h"

constexpr long BLOCK = 128;  // rows summed by themselves

struct Pair { vec first, second; };

// To `sums` (2, channels) is added body(i, c) of every i = r * channels + c, c to c + 7 at a time: rows by blocks, so that a
// long sum loses nothing.
template <class Body> static void blockwise_sums(long rows, long channels, long threads, float *sums, const Body &body) {
    parallel_sum((rows + BLOCK - 1) / BLOCK, threads, sums, 2 * channels, [=](long block, float *total) {
        const Body own = body;  // in registers, see `parallel`
        float *a = scratch(2 * channels), *b = a + channels;
        memset(a, 0, 2 * channels * sizeof(float));
        for (long r = block * BLOCK; r < rows && r < (block + 1) * BLOCK; r++)
            for (long c = 0, at = r * channels; c < channels; c += LANES, at += LANES) {
                Pair pair = own(at, c);
                store(a + c, load(a + c) + pair.first);
                store(b + c, load(b + c) + pair.second);
            }
        for (long c = 0; c < 2 * channels; c += LANES) store(total + c, load(total + c) + load(a + c));
    });
}

// grad, that by GELU's output, becomes that by the norm's output scale * x + shift. To `sums` (2, channels) are added its
// sum and that of its product with x - mean. `output`, where not null, takes GELU's output.
extern "C" void gelu_backward(const float *x, const float *scale, const float *shift, const float *mean, float *grad,
                              float *output, float *sums, long rows, long channels, long threads) {
    blockwise_sums(rows, channels, threads, sums, [=](long at, long c) {
        vec slope, v = load(x + at), y = gelu(v * load(scale + c) + load(shift + c), slope);
        vec d = load(grad + at) * slope;
        if (output) store(output + at, y);
        store(grad + at, d);
        return Pair{d, d * (v - load(mean + c))};
    });
}

// The gradient by x of GELU(x + y * scale + shift), where `grad` is that by its output. To `sums` (2, channels) are added
// the sum of grad_x and that of its product with y - mean.
extern "C" void add_gelu_backward(const float *x, const float *y, const float *scale, const float *shift,
                                  const float *mean, const float *grad, float *grad_x, float *sums, long rows,
                                  long channels, long threads) {
    blockwise_sums(rows, channels, threads, sums, [=](long at, long c) {
        vec slope, v = load(y + at);
        gelu(load(x + at) + v * load(scale + c) + load(shift + c), slope);
        vec d = load(grad + at) * slope;
        store(grad_x + at, d);
        return Pair{d, d * (v - load(mean + c))};
    });
}

// grad_x, from the gradient by a batch norm's output, of which `sums` (2, channels) are the sum over all `cells` of the
// batch and that of its product with x - mean; grad_x may be grad.
extern "C" void norm_backward(const float *x, const float *scale, const float *mean, const float *inverse_std,
                              const float *sums, const float *grad, float *grad_x, long rows, long channels, long cells,
                              long threads) {
    vec share = splat(1.0f / cells);
    parallel(rows, threads, [=](long r) {
        for (long c = 0, at = r * channels; c < channels; c += LANES, at += LANES) {
            vec inverse = load(inverse_std + c), slope = load(sums + channels + c) * inverse * inverse * share;
            vec d = load(grad + at) - load(sums + c) * share - (load(x + at) - load(mean + c)) * slope;
            store(grad_x + at, load(scale + c) * d);
        }
    });
}

// The gradient by x of factor * LN(x), where `grad` is that by its output, plus `addend`; grad_x may be either. `factors`
// has one for every `per_image` rows; it and the addend may be null. To `sums` (2, channels) are added those of weight, bias.
extern "C" void layer_norm_backward(const float *x, const float *weight, const float *grad, const float *factors,
                                    const float *addend, float *grad_x, float *sums, long rows, long channels,
                                    long per_image, float eps, long threads) {
    parallel_sum((rows + BLOCK - 1) / BLOCK, threads, sums, 2 * channels, [=](long block, float *total) {
        float *of_block = scratch(2 * channels);
        memset(of_block, 0, 2 * channels * sizeof(float));
        for (long r = block * BLOCK; r < rows && r < (block + 1) * BLOCK; r++) {
            const float *p = x + r * channels, *g = grad + r * channels;
            vec factor = splat(factors ? factors[r / per_image] : 1.0f), all = splat(0), squares = splat(0);
            for (long c = 0; c < channels; c += LANES) all += load(p + c);
            vec mean = splat(sum(all) / channels);
            for (long c = 0; c < channels; c += LANES) {
                vec d = load(p + c) - mean;
                squares += d * d;
            }
            vec inverse = splat(1.0f / __builtin_sqrtf(sum(squares) / channels + eps)), plain = splat(0), along = splat(0);
            for (long c = 0; c < channels; c += LANES) {
                vec d = load(g + c) * factor, normed = (load(p + c) - mean) * inverse, weighted = d * load(weight + c);
                plain += weighted;
                along += weighted * normed;
                store(of_block + c, load(of_block + c) + d * normed);
                store(of_block + channels + c, load(of_block + channels + c) + d);
            }
            vec offset = splat(sum(plain) / channels), slope = splat(sum(along) / channels);
            for (long c = 0; c < channels; c += LANES) {
                vec normed = (load(p + c) - mean) * inverse;
                vec d = inverse * (load(g + c) * factor * load(weight + c) - offset - normed * slope);
                store(grad_x + r * channels + c, addend ? d + load(addend + r * channels + c) : d);
            }
        }
        for (long c = 0; c < 2 * channels; c += LANES) store(total + c, load(total + c) + load(of_block + c));
    });
}
