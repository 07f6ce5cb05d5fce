// Products of a map's many rows with a small matrix, which stays in the cache: rows are read where they lie.
#include "vector.h"

constexpr int ROWS = 6, PANEL = 2 * LANES;  // of a tile, whose sums stay in registers
constexpr long FETCHED = 16;                // floats that come from memory together
constexpr long DEPTH = 384;                 // rows of the matrix at once: a panel of them stays in the first cache
constexpr long BLOCK = 192;                 // rows of the map, at most, that go past all panels, from the second cache

// What is added to the sums of a tile, each where it is not null.
struct Added { const float *bias, *addend; };

// out (R, N * 8) <- x (R, depth) panel (depth, N * 8) + added; rows of x lie `step` apart, those of out and addend `width`
template <int R, int N>
static inline void tile(const float *x, long step, const float *panel, long depth, Added added, float *out, long width) {
    vec sums[R][N] = {};
    for (long k = 0; k < depth; k++) {
        if (k % FETCHED == 0)
            for (int r = 0; r < R; r++) __builtin_prefetch(x + (r + R) * step + k);  // the next tile's rows
        vec b[N];
        for (int n = 0; n < N; n++) b[n] = load(panel + (k * N + n) * LANES);
        for (int r = 0; r < R; r++) {
            vec a = splat(x[r * step + k]);
            for (int n = 0; n < N; n++) sums[r][n] += a * b[n];
        }
    }
    for (int r = 0; r < R; r++)
        for (int n = 0; n < N; n++) {
            if (added.bias) sums[r][n] += load(added.bias + n * LANES);
            if (added.addend) sums[r][n] += load(added.addend + r * width + n * LANES);
            store(out + r * width + n * LANES, sums[r][n]);
        }
}

template <int N>
static void down(const float *x, long rows, long step, const float *panel, long depth, Added added, float *out, long width) {
    auto next = [&](long n) {
        rows -= n, x += n * step, out += n * width;
        if (added.addend) added.addend += n * width;
    };
    for (; rows >= ROWS; next(ROWS)) tile<ROWS, N>(x, step, panel, depth, added, out, width);
    for (; rows >= 2; next(2)) tile<2, N>(x, step, panel, depth, added, out, width);
    if (rows == 1) tile<1, N>(x, step, panel, depth, added, out, width);
}

// Eight columns of a panel, whose rows lie `columns` apart, from eight of a matrix, whose rows lie `step` apart.
static void pack_rows(const float *matrix, long depth, long step, float *panel, long columns) {
    for (long k = 0; k < depth; k++) store(panel + k * columns, load(matrix + k * step));
}

// The same where in the matrix it is columns that lie `step` apart.
static void pack_columns(const float *matrix, long depth, long step, float *panel, long columns) {
    long k = 0;
    for (; k + LANES <= depth; k += LANES) transpose_tile(matrix + k, step, panel + k * columns, columns);
    for (; k < depth; k++)
        for (long c = 0; c < LANES; c++) panel[k * columns + c] = matrix[c * step + k];
}

static inline long at_most(long most, long n) { return n < most ? n : most; }

// out (rows, width) <- x (rows, depth) matrix (depth, width) [+ bias] [+ addend]; addend may be out. The matrix is kept
// transposed where `transposed` is 1. The depth is not 0, the width a multiple of 8.
extern "C" void product(const float *x, const float *matrix, const float *bias, const float *addend, float *out, long rows,
                        long depth, long width, long transposed, long threads) {
    if (!rows) return;
    float *panels = scratch(depth * width);  // for every `DEPTH` rows of the matrix its panels, one after the other
    parallel((width + PANEL - 1) / PANEL, threads, [=](long panel) {
        long n = panel * PANEL, columns = at_most(PANEL, width - n);
        for (long k = 0; k < depth; k += DEPTH)
            for (long c = 0, part = at_most(DEPTH, depth - k); c < columns; c += LANES) {
                float *to = panels + k * width + n * part + c;
                if (transposed) pack_columns(matrix + (n + c) * depth + k, part, depth, to, columns);
                else pack_rows(matrix + k * width + n + c, part, width, to, columns);
            }
    });
    long turns = (rows + BLOCK * threads - 1) / (BLOCK * threads), each = (rows + turns * threads - 1) / (turns * threads);
    each = (each + ROWS - 1) / ROWS * ROWS;
    parallel((rows + each - 1) / each, threads, [=](long block) {
        long top = block * each, count = at_most(each, rows - top);
        for (long k = 0; k < depth; k += DEPTH)
            for (long n = 0, part = at_most(DEPTH, depth - k); n < width; n += PANEL) {
                float *to = out + top * width + n;
                Added added{k || !bias ? nullptr : bias + n, k ? to : addend ? addend + top * width + n : nullptr};
                auto run = width - n < PANEL ? down<1> : down<2>;
                run(x + top * depth + k, count, depth, panels + k * width + n * part, part, added, to, width);
            }
    });
}
