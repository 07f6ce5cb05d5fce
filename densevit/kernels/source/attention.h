// What attention and its gradients share: windows of a map, heads of a given width.
#pragma once

#include "products.h"

constexpr long QUERIES = 48;  // queries of one block of key_attention

#define BY_WIDTH(dim, call) switch (dim) { \
    case 8: call(8); break; case 16: call(16); break; case 24: call(24); break; case 32: call(32); break; }

// Windows of equal length along one axis, as `densevit.models.windows.Run`.
struct Run { int64_t start, blocks, rows, dilation, tokens, offset, width; };

// The window's cells as offsets (y * W + x).
static void window_cells(long index, const Run &y, const Run &x, long W, long *cells) {
    long per_row = x.blocks * x.width, iy = index / per_row, ix = index % per_row;
    long top = y.start + iy / y.width * y.rows * y.dilation + y.offset + iy % y.width;
    long left = x.start + ix / x.width * x.rows * x.dilation + x.offset + ix % x.width;
    long n = 0;
    for (long ty = 0; ty < y.tokens; ty++)
        for (long tx = 0; tx < x.tokens; tx++) cells[n++] = (top + ty * y.dilation) * W + left + tx * x.dilation;
}

// rows (n, D) <- scale * (the cells of x + shift)
template <int D>
static inline void gather(const float *x, long channels, const float *shift, const long *cells, long n, float scale,
                          float *rows) {
    for (long i = 0; i < n; i++)
        for (long d = 0; d < D; d += LANES) {
            __builtin_prefetch(x + cells[i] * channels + d + D);  // the next head
            vec v = load(x + cells[i] * channels + d);
            if (shift) v += load(shift + d);
            store(rows + i * D + d, v * scale);
        }
}
