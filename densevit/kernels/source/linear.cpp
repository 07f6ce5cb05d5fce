// Products of a map's many rows with a small matrix, which stays in the cache.
#include "tiles.h"

// out (rows, width) <- x (rows, depth) matrix (depth, width) [+ bias] [+ addend]; addend may be out. The matrix is kept
// transposed where `transposed` is 1. The depth is not 0, the width a multiple of 8.
extern "C" void product(const float *x, const float *matrix, const float *bias, const float *addend, float *out, long rows,
                        long depth, long width, long transposed, long threads) {
    if (!rows) return;
    float *panels = scratch(depth * width);
    pack(matrix, depth, width, transposed, panels, threads);
    long turns = (rows + BLOCK * threads - 1) / (BLOCK * threads), each = (rows + turns * threads - 1) / (turns * threads);
    each = (each + ROWS - 1) / ROWS * ROWS;
    parallel((rows + each - 1) / each, threads, [=](long block) {
        long top = block * each, count = at_most(each, rows - top);
        for (long k = 0; k < depth; k += DEPTH)
            for (long n = 0, part = at_most(DEPTH, depth - k); n < width; n += PANEL) {
                float *to = out + top * width + n;
                Added added{k || !bias ? nullptr : bias + n, k ? to : addend ? addend + top * width + n : nullptr};
                auto wide = n ? down<2> : down<2, true>;  // rows come from memory to the first panel only
                auto run = width - n < PANEL ? down<1> : wide;
                run(x + top * depth + k, count, depth, panels + k * width + n * part, part, added, to, width);
            }
    });
}
