// The rows of a map that a 3x3 convolution needs at one time, for some channels, kept where they are quick to reach.
#pragma once

#include "vector.h"

constexpr long AHEAD = 4;  // cells; the processor does not see by itself that the next cell's channels come next

// Channels that a task takes at once, so that three rows stay in the cache and every thread has work.
static inline long channel_block(long images, long width, long channels, long threads) {
    long block = 32768 / (3 * (width + 2)), share = images * channels / (4 * threads);
    if (threads > 1 && block > share) block = share;
    if (block < 2 * LANES) block = 2 * LANES;
    long blocks = (channels + block - 1) / block;
    return ((channels + blocks - 1) / blocks + LANES - 1) / LANES * LANES;
}

// Three rows, each (channels / 8, W + 2, 8) with a cell of zeros at either end. Row -1 is zeros.
struct Ring {
    long W, first, end, line, loaded = -1;
    float *rows = nullptr;

    Ring(long W, long first, long end) : W(W), first(first), end(end), line((W + 2) * LANES) {}

    long slot() const { return (end - first) / LANES * line; }
    long floats() const { return 3 * slot(); }

    void start(float *memory) {
        rows = memory;
        memset(rows, 0, floats() * sizeof(float));
    }

    // The cell left of row r, channels c to c + 7; r is one of the last three that were filled, from -1 on.
    float *row(long r, long c) const { return rows + (r + 3) % 3 * slot() + (c - first) / LANES * line; }

    // Fill every `spacing`-th cell of row r with value(i, c, at): channels c to c + 7, i their place in a map's row that
    // begins at `from` and has C channels, `at` that in the ring's row. The cells between stay zeros.
    template <class Value> void load(long r, const float *from, long C, long spacing, const Value &value) {
        float *to = row(r, first) + LANES;
        const long cells = (W + spacing - 1) / spacing, start = first, stop = end, step = line;
        for (long j = 0; j < cells; j++)
            for (long c = start, at = j * spacing * LANES; c < stop; c += LANES, at += step) {
                __builtin_prefetch(from + (j + AHEAD) * C + c);
                store(to + at, value(j * C + c, c, at));
            }
        loaded = r;
    }

    void clear(long r) {
        memset(row(r, first), 0, slot() * sizeof(float));
        loaded = r;
    }
};
