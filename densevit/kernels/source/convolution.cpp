// Convolutions as products, of lines of a map as they lie: what a cell sees of one line is one run of floats.
#include "tiles.h"

constexpr long CELLS = 256;     // at once, of a sum over all cells
constexpr long CHANNELS = 192;  // of the gradient at once: with so many cells they stay in the second cache

// out[i, y, x] <- sum over t < taps of the `depth` floats of `map` from i * image + y * line + x * step + t * tap on, times
// rows t * depth and on of `matrix` (taps * depth, width). Sizes of out: images, H, W; it lies by out_image, out_line, out_step.
// `depth` is not 0, `width` a multiple of 8.
extern "C" void convolution(const float *map, const float *matrix, float *out, long images, long H, long W, long image,
                            long line, long step, long taps, long tap, long depth, long width, long out_image,
                            long out_line, long out_step, long threads) {
    float *panels = scratch(taps * depth * width);
    for (long t = 0; t < taps; t++) pack(matrix + t * depth * width, depth, width, false, panels + t * depth * width, threads);
    long lines = at_most(H, BLOCK / W + 1), blocks = (H + lines - 1) / lines;
    parallel(images * blocks, threads, [=](long block) {
        long i = block / blocks, top = block % blocks * lines, end = at_most(H, top + lines);
        for (long t = 0; t < taps; t++)
            for (long k = 0; k < depth; k += DEPTH)
                for (long n = 0, part = at_most(DEPTH, depth - k); n < width; n += PANEL) {
                    const float *panel = panels + (t * depth + k) * width + n * part;
                    auto run = width - n < PANEL ? down<1> : down<2>;
                    for (long y = top; y < end; y++) {
                        float *to = out + i * out_image + y * out_line + n;
                        const float *from = map + i * image + y * line + t * tap + k;
                        run(from, W, step, panel, part, Added{nullptr, t || k ? to : nullptr}, to, out_step);
                    }
                }
    });
}

// to (cells, R) <- R channels of cells that lie `step` apart
template <int R> static void pack_cells(const float *from, long cells, long step, float *to) {
    for (long k = 0; k < cells; k++, from += step, to += R) memcpy(to, from, R * sizeof(float));
}

// total (channels, N * 8) <- [total +] the transpose of the packed cells (cells, channels) times the panel (cells, N * 8)
template <int N>
static void across(const float *block, long channels, const float *panel, long cells, bool more, float *total, long width) {
    for (; channels > 0; channels -= ROWS, block += ROWS * cells, total += ROWS * width) {
        Added added{nullptr, more ? total : nullptr};
        if (channels >= 6) tile<6, N>(block, 1, 6, panel, cells, added, total, width);
        else if (channels == 4) tile<4, N>(block, 1, 4, panel, cells, added, total, width);
        else tile<2, N>(block, 1, 2, panel, cells, added, total, width);
    }
}

// total (channels, taps * depth) <- the sum over all cells i, y, x of grad[i, y, x] (channels) times what `convolution` sees
// there of `map`. Channels and depth are multiples of 8.
extern "C" void convolution_weight(const float *map, const float *grad, float *total, long images, long H, long W,
                                   long image, long line, long step, long taps, long tap, long depth, long channels,
                                   long threads) {
    long width = taps * depth, panels = (width + PANEL - 1) / PANEL, each = (panels + threads - 1) / threads;
    parallel(threads, threads, [=](long thread) {
        float *block = scratch(CELLS * (CHANNELS + PANEL)), *panel = block + CELLS * CHANNELS;
        const float *starts[CELLS];
        for (long first = 0, all = images * H * W; first < all; first += CELLS) {
            long cells = at_most(CELLS, all - first);
            for (long k = 0; k < cells; k++) {
                long cell = first + k, y = cell / W % H, x = cell % W;
                starts[k] = map + cell / (W * H) * image + y * line + x * step;
            }
            for (long left = 0; left < channels; left += CHANNELS) {
                long most = at_most(CHANNELS, channels - left);
                const float *from = grad + first * channels + left;
                for (long c = 0; c < most; c += ROWS)
                    if (most - c >= 6) pack_cells<6>(from + c, cells, channels, block + c * cells);
                    else if (most - c == 4) pack_cells<4>(from + c, cells, channels, block + c * cells);
                    else pack_cells<2>(from + c, cells, channels, block + c * cells);
                for (long p = thread * each; p < at_most(panels, (thread + 1) * each); p++) {
                    long n = p * PANEL, columns = at_most(PANEL, width - n);
                    for (long c = 0; c < columns; c += LANES) {
                        long seen = (n + c) / depth * tap + (n + c) % depth;
                        for (long k = 0; k < cells; k++) store(panel + k * columns + c, load(starts[k] + seen));
                    }
                    auto run = columns < PANEL ? across<1> : across<2>;
                    run(block, most, panel, cells, first > 0, total + left * width + n, width);
                }
            }
        }
    });
}
