// Gradients of GELU(batch norm(x)) in training. Maps are (rows, channels), contiguous; channels are a multiple of 8.
#include "vector.h"

// grad, that by GELU's output, becomes that by the norm's output scale * x + shift. To `sums` (2, channels) are added its
// sum and that of its product with x - mean. `output`, where not null, takes GELU's output.
extern "C" void gelu_backward(const float *x, const float *scale, const float *shift, const float *mean, float *grad,
                              float *output, float *sums, long rows, long channels, long threads) {
    constexpr long BLOCK = 128;  // rows summed by themselves, so that a long sum loses nothing
    parallel_sum((rows + BLOCK - 1) / BLOCK, threads, sums, 2 * channels, [=](long block, float *total) {
        float *of_block = scratch(2 * channels);
        memset(of_block, 0, 2 * channels * sizeof(float));
        for (long r = block * BLOCK; r < rows && r < (block + 1) * BLOCK; r++) {
            const float *p = x + r * channels;
            float *g = grad + r * channels;
            for (long c = 0; c < channels; c += LANES) {
                vec slope, v = load(p + c), y = gelu(v * load(scale + c) + load(shift + c), slope);
                vec d = load(g + c) * slope;
                if (output) store(output + r * channels + c, y);
                store(g + c, d);
                store(of_block + c, load(of_block + c) + d);
                store(of_block + channels + c, load(of_block + channels + c) + d * (v - load(mean + c)));
            }
        }
        for (long c = 0; c < 2 * channels; c += LANES) store(total + c, load(total + c) + load(of_block + c));
    });
}

// grad, that by the norm's output, becomes that by x: scale * (grad - offset - (x - mean) * slope)
extern "C" void norm_backward(const float *x, const float *scale, const float *mean, const float *offset,
                              const float *slope, float *grad, long rows, long channels, long threads) {
    parallel(rows, threads, [=](long r) {
        const float *p = x + r * channels;
        float *g = grad + r * channels;
        for (long c = 0; c < channels; c += LANES)
            store(g + c, load(scale + c) * (load(g + c) - load(offset + c) - (load(p + c) - load(mean + c)) * load(slope + c)));
    });
}
