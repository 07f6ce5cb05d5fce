// Statistics of a batch norm in training. Maps are (rows, channels), contiguous; channels are a multiple of 8.
#include "sums.h"

// vectors (4, channels) <- scale, shift, mean and inverse deviation of the norm of this batch, x * scale + shift; the running
// statistics are moved on. Squares are of the distance to the first row, which is near enough to the mean for them to lose
// nothing.
extern "C" void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean,
                           float *running_var, float *vectors, long rows, long channels, float momentum, float eps,
                           long threads) {
    memset(vectors, 0, 2 * channels * sizeof(float));
    blockwise_sums(rows, channels, threads, vectors, [=](long at, long c) {
        vec d = load(x + at) - load(x + c);
        return Pair{d, d * d};
    });
    for (long c = 0; c < channels; c++) {
        float distance = vectors[c] / rows, var = vectors[channels + c] / rows - distance * distance;
        if (var < 0) var = 0;
        float mean = x[c] + distance, inverse = 1 / sqrtf(var + eps);
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_var[c] += momentum * (var * rows / (rows - 1) - running_var[c]);
        vectors[c] = gamma[c] * inverse;
        vectors[channels + c] = beta[c] - mean * vectors[c];
        vectors[2 * channels + c] = mean;
        vectors[3 * channels + c] = inverse;
    }
}
