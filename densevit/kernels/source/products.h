// The two small matrix products of attention, three rows at a time so that all sums stay in registers.
#pragma once

#include <cmath>

#include "vector.h"

constexpr long ROWS = 3;
constexpr float NEVER = -INFINITY;  // the score of a key that is not there

template <int R, int N>
static inline void scores_tile(const float *q, const float *kt, long keys, long dim, float *out) {
    vec sums[R][N] = {};
    for (long d = 0; d < dim; d++) {
        vec x[R];
        for (int r = 0; r < R; r++) x[r] = splat(q[r * dim + d]);
        for (int n = 0; n < N; n++) {
            vec k = kept(load(kt + d * keys + n * LANES));
            for (int r = 0; r < R; r++) sums[r][n] += x[r] * k;
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) store(out + r * keys + n * LANES, sums[r][n]);
}

template <int R> static inline void scores_rows(const float *q, const float *kt, long keys, long dim, float *out) {
    long n = 0;
    for (; n + 4 * LANES <= keys; n += 4 * LANES) scores_tile<R, 4>(q, kt + n, keys, dim, out + n);
    switch ((keys - n) / LANES) {
        case 3: scores_tile<R, 3>(q, kt + n, keys, dim, out + n); break;
        case 2: scores_tile<R, 2>(q, kt + n, keys, dim, out + n); break;
        case 1: scores_tile<R, 1>(q, kt + n, keys, dim, out + n); break;
    }
}

// out (rows, keys) <- q (rows, dim) kt (dim, keys); keys are a multiple of 8
static inline void scores(const float *q, const float *kt, long rows, long keys, long dim, float *out) {
    for (; rows >= ROWS; rows -= ROWS, q += ROWS * dim, out += ROWS * keys) scores_rows<ROWS>(q, kt, keys, dim, out);
    if (rows == 2) scores_rows<2>(q, kt, keys, dim, out);
    if (rows == 1) scores_rows<1>(q, kt, keys, dim, out);
}

template <int R, int D, bool ADD>
static inline void mix_rows(const float *p, long row, long column, const float *v, long n, float *out) {
    vec sums[R][D / LANES] = {};
    for (long i = 0; i < n; i++) {
        vec w[R];
        for (int r = 0; r < R; r++) w[r] = splat(p[r * row + i * column]);
        for (int d = 0; d < D / LANES; d++) {
            vec x = kept(load(v + i * D + d * LANES));
            for (int r = 0; r < R; r++) sums[r][d] += w[r] * x;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; r++)
#pragma GCC unroll 8
        for (int d = 0; d < D / LANES; d++) {
            float *o = out + r * D + d * LANES;
            store(o, ADD ? load(o) + sums[r][d] : sums[r][d]);
        }
}

// out (rows, D) <- [out +] p v, where p (rows, n) has its rows and columns that far apart, and v is (n, D)
template <int D, bool ADD>
static inline void mix(const float *p, long row, long column, const float *v, long rows, long n, float *out) {
    for (; rows >= ROWS; rows -= ROWS, p += ROWS * row, out += ROWS * D) mix_rows<ROWS, D, ADD>(p, row, column, v, n, out);
    if (rows == 2) mix_rows<2, D, ADD>(p, row, column, v, n, out);
    if (rows == 1) mix_rows<1, D, ADD>(p, row, column, v, n, out);
}

// The bias of a block of rows: `keys` floats each; nothing is read from `end` on. Null: none.
struct Bias { const float *rows, *end; };

// In place: softmax of scores + bias in each row, not yet divided by its sum; inverse[r] is one over that.
// A row of scores is padded(keys) long; what lies beyond the keys becomes 0.
static inline void softmax(float *s, Bias bias, long rows, long keys, float *inverse) {
    long width = padded(keys), last = width - LANES;
    int_vec lane = {0, 1, 2, 3, 4, 5, 6, 7}, there = lane < (int32_t)(keys - last);
    for (long r = 0; r < rows; r++, s += width) {
        const float *b = bias.rows ? bias.rows + r * keys : nullptr;
        float copy[b && b + width > bias.end ? width : 1];
        if (b && b + width > bias.end) b = (const float *)memcpy(copy, b, keys * sizeof(float));
        vec top = splat(NEVER), total = splat(0);
        for (long n = 0; n < width; n += LANES) {
            vec x = load(s + n);
            if (b) x += load(b + n);
            if (n == last) x = there ? x : splat(NEVER);
            store(s + n, x);
            top = larger(x, top);
        }
        vec m = splat(largest(top));
        for (long n = 0; n < width; n += LANES) {
            vec e = exponential(load(s + n) - m);
            if (n == last) e = there ? e : splat(0);
            store(s + n, e);
            total += e;
        }
        inverse[r] = 1.0f / sum(total);
    }
}

// kt (dim, padded(keys)) <- k (keys, dim) transposed, zero where no key is; dim is a multiple of 8
static inline void transpose(const float *k, long keys, long dim, float *kt) {
    long width = padded(keys), n = 0;
    for (; n + LANES <= keys; n += LANES)
        for (long d = 0; d < dim; d += LANES) transpose_tile(k + n * dim + d, dim, kt + d * width + n, width);
    for (; n < width; n++)
        for (long d = 0; d < dim; d++) kt[d * width + n] = n < keys ? k[n * dim + d] : 0.0f;
}
