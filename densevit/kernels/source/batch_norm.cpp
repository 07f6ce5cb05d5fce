// Statistics of a batch norm. Maps are (rows, channels), contiguous; channels are a multiple of 8.
#include "vector.h"

constexpr long BLOCK = 16384;  // floats, about: a block's rows are read from memory once, and again from the cache

// To `sums` (channels) is added body(x, c) of channels c to c + 7 of all rows, four at a time.
template <class Body> static void add_rows(const float *x, long rows, long channels, float *sums, const Body &body) {
    for (; rows >= 4; rows -= 4, x += 4 * channels)
        for (long c = 0; c < channels; c += LANES) {
            const float *p = x + c;
            vec one = body(load(p), c) + body(load(p + channels), c);
            vec two = body(load(p + 2 * channels), c) + body(load(p + 3 * channels), c);
            store(sums + c, load(sums + c) + (one + two));
        }
    for (; rows > 0; rows--, x += channels)
        for (long c = 0; c < channels; c += LANES) store(sums + c, load(sums + c) + body(load(x + c), c));
}

// mean, squares (channels) <- those of `rows` rows, the latter the sum of squares of what they differ from the mean.
static void of_block(const float *x, long rows, long channels, float *mean, float *squares) {
    memset(mean, 0, channels * sizeof(float));
    memset(squares, 0, channels * sizeof(float));
    add_rows(x, rows, channels, mean, [](vec v, long) { return v; });
    for (long c = 0; c < channels; c += LANES) store(mean + c, load(mean + c) * (1.0f / rows));
    add_rows(x, rows, channels, squares, [=](vec v, long c) {
        vec d = v - load(mean + c);
        return d * d;
    });
}

// vectors (4, channels) <- scale, shift, mean and inverse deviation of the norm of these rows; running statistics moved on.
extern "C" void batch_norm(const float *x, const float *gamma, const float *beta, float *running_mean, float *running_var,
                           float *vectors, long rows, long channels, float momentum, float eps, long threads) {
    long each = BLOCK / channels < 16 ? 16 : BLOCK / channels, blocks = (rows + each - 1) / each;
    std::vector<float> partials(blocks * 2 * channels);
    float *means = partials.data(), *squares = means + blocks * channels;
    auto count = [=](long block) { return block < blocks - 1 ? each : rows - block * each; };
    parallel(blocks, threads, [=](long block) {
        of_block(x + block * each * channels, count(block), channels, means + block * channels, squares + block * channels);
    });
    std::vector<double> mean(channels), variance(channels);
    for (long b = 0; b < blocks; b++)
        for (long c = 0; c < channels; c++) mean[c] += means[b * channels + c] * ((double)count(b) / rows);
    for (long b = 0; b < blocks; b++) {
        double share = (double)count(b) / rows, one = 1.0 / rows;
        for (long c = 0; c < channels; c++) {
            double away = means[b * channels + c] - mean[c];
            variance[c] += squares[b * channels + c] * one + away * away * share;
        }
    }
    for (long c = 0; c < channels; c++) {
        float inverse_std = 1.0 / __builtin_sqrt(variance[c] + eps), scale = gamma[c] * inverse_std;
        vectors[c] = scale;
        vectors[channels + c] = beta[c] - mean[c] * scale;
        vectors[2 * channels + c] = mean[c];
        vectors[3 * channels + c] = inverse_std;
        running_mean[c] += momentum * (mean[c] - running_mean[c]);
        running_var[c] += momentum * (variance[c] * rows / (rows - 1.0) - running_var[c]);
    }
}
