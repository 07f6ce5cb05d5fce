// Sums over the rows of a map.
#pragma once

#include "vector.h"

constexpr long BLOCK = 128;  // rows summed by themselves

struct Pair { vec first, second; };

// To `sums` (2, channels) is added body(i, c) of every i = r * channels + c, c to c + 7 at a time: rows by blocks, so that a
// long sum loses nothing.
template <class Body> static void blockwise_sums(long rows, long channels, long threads, float *sums, const Body &body) {
    parallel_sum((rows + BLOCK - 1) / BLOCK, threads, sums, 2 * channels, [=](long block, float *total) {
        float *a = scratch(2 * channels), *b = a + channels;
        memset(a, 0, 2 * channels * sizeof(float));
        for (long r = block * BLOCK; r < rows && r < (block + 1) * BLOCK; r++)
            for (long c = 0, at = r * channels; c < channels; c += LANES, at += LANES) {
                Pair pair = body(at, c);
                store(a + c, load(a + c) + pair.first);
                store(b + c, load(b + c) + pair.second);
            }
        for (long c = 0; c < 2 * channels; c += LANES) store(total + c, load(total + c) + load(a + c));
    });
}
