// Matrix products by tiles, whose sums stay in registers: many rows, read where they lie, times a panel of a small matrix.
#pragma once

#include "vector.h"

constexpr int ROWS = 6, PANEL = 2 * LANES;  // of a tile, at most
constexpr long FETCHED = 16;                // floats that come from memory together
constexpr long DEPTH = 512;                 // rows of the matrix at once: a panel of them stays in the first cache
constexpr long BLOCK = 192;                 // rows of the map, at most, that go past all panels, from the second cache

// What is added to the sums of a tile, each where it is not null.
struct Added { const float *bias, *addend; };

// out (R, N * 8) <- x (R, depth) panel (depth, N * 8) + added. Floats of x lie `step` apart from row to row and `along` in a
// row; rows of out and addend `width`. Two floats of a row at a time and little else in the loop: where two threads share a
// core it is instructions that it lacks.
template <int R, int N, bool FETCH = false>
static inline void tile(const float *x, long step, long along, const float *panel, long depth, Added added, float *out,
                        long width) {
    for (int r = 0; r < R; r++) {  // on their way while the sums are made
        __builtin_prefetch(out + r * width, 1);
        if (added.addend) __builtin_prefetch(added.addend + r * width);
    }
    vec sums[R][N] = {};
    auto add = [&](long k) __attribute__((always_inline)) {
        vec b[N];
        for (int n = 0; n < N; n++) b[n] = kept(load(panel + (k * N + n) * LANES));
        for (int r = 0; r < R; r++) {
            vec a = kept(splat(x[r * step + k * along]));
            for (int n = 0; n < N; n++) sums[r][n] += a * b[n];
        }
    };
    long k = 0;
    for (; k + 2 <= depth; k += 2) {
        if (FETCH && k % FETCHED == 0)
            for (int r = 0; r < R; r++) __builtin_prefetch(x + (r + R) * step + k);  // the next tile's rows
        add(k);
        add(k + 1);
    }
    if (k < depth) add(k);
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) {
            if (added.bias) sums[r][n] += load(added.bias + n * LANES);
            if (added.addend) sums[r][n] += load(added.addend + r * width + n * LANES);
            store(out + r * width + n * LANES, sums[r][n]);
        }
}

// The same for any number of rows, in tiles of about one height: a tile of less than four rows has too few sums to keep the
// processor busy.
template <int N, bool FETCH = false>
static void down(const float *x, long rows, long step, const float *panel, long depth, Added added, float *out, long width) {
    for (long left = (rows + ROWS - 1) / ROWS, n; left > 0; left--, rows -= n) {
        n = (rows + left - 1) / left;
        switch (n) {
            case 6: tile<6, N, FETCH>(x, step, 1, panel, depth, added, out, width); break;
            case 5: tile<5, N, FETCH>(x, step, 1, panel, depth, added, out, width); break;
            case 4: tile<4, N, FETCH>(x, step, 1, panel, depth, added, out, width); break;
            case 3: tile<3, N>(x, step, 1, panel, depth, added, out, width); break;
            case 2: tile<2, N>(x, step, 1, panel, depth, added, out, width); break;
            case 1: tile<1, N>(x, step, 1, panel, depth, added, out, width); break;
        }
        x += n * step, out += n * width;
        if (added.addend) added.addend += n * width;
    }
}

// Eight columns of a panel, whose rows lie `columns` apart, from eight of a matrix, whose rows lie `step` apart.
static inline void pack_rows(const float *matrix, long depth, long step, float *panel, long columns) {
    for (long k = 0; k < depth; k++) store(panel + k * columns, load(matrix + k * step));
}

// The same where in the matrix it is columns that lie `step` apart.
static inline void pack_columns(const float *matrix, long depth, long step, float *panel, long columns) {
    long k = 0;
    for (; k + LANES <= depth; k += LANES) transpose_tile(matrix + k, step, panel + k * columns, columns);
    for (; k < depth; k++)
        for (long c = 0; c < LANES; c++) panel[k * columns + c] = matrix[c * step + k];
}

static inline long at_most(long most, long n) { return n < most ? n : most; }

// panels <- the matrix (depth, width), or its transpose (width, depth): for every `DEPTH` rows its panels, one after the other
static inline void pack(const float *matrix, long depth, long width, bool transposed, float *panels, long threads) {
    parallel((width + PANEL - 1) / PANEL, threads, [=](long panel) {
        long n = panel * PANEL, columns = at_most(PANEL, width - n);
        for (long k = 0; k < depth; k += DEPTH)
            for (long c = 0, part = at_most(DEPTH, depth - k); c < columns; c += LANES) {
                float *to = panels + k * width + n * part + c;
                if (transposed) pack_columns(matrix + (n + c) * depth + k, part, depth, to, columns);
                else pack_rows(matrix + k * width + n + c, part, width, to, columns);
            }
    });
}
