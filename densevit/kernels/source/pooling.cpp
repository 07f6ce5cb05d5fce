// Mean of every window of a (B, H, W, C) map, and its gradient.
#include "attention.h"

// One group's windows in out (B, windows down, windows across, C), the first of them at `place`.
extern "C" void pool_windows(const float *x, float *out, long B, long H, long W, long C, const Run *y, const Run *x_run,
                             long place, long down, long across, long threads) {
    long columns = x_run->blocks * x_run->width, per_image = y->blocks * y->width * columns, T = y->tokens * x_run->tokens;
    parallel(B * per_image, threads, [=](long index) {
        long cells[T], b = index / per_image, n = index % per_image;
        window_cells(n, *y, *x_run, W, cells);
        float *to = out + (b * down * across + place + n / columns * across + n % columns) * C;
        memset(to, 0, C * sizeof(float));
        for (long i = 0; i < T; i++)
            for (long c = 0; c < C; c += LANES) store(to + c, load(to + c) + load(x + (b * H * W + cells[i]) * C + c));
        for (long c = 0; c < C; c += LANES) store(to + c, load(to + c) / (float)T);
    });
}

// grad_x <- addend + the gradient by x of `pool_windows`, where `grad` is that by its output.
extern "C" void pool_windows_backward(const float *grad, const float *addend, float *grad_x, long B, long H, long W,
                                      long C, const Run *y, const Run *x_run, long place, long down, long across,
                                      long threads) {
    long columns = x_run->blocks * x_run->width, per_image = y->blocks * y->width * columns, T = y->tokens * x_run->tokens;
    parallel(B * per_image, threads, [=](long index) {
        long cells[T], b = index / per_image, n = index % per_image;
        window_cells(n, *y, *x_run, W, cells);
        const float *from = grad + (b * down * across + place + n / columns * across + n % columns) * C;
        for (long i = 0; i < T; i++)
            for (long c = 0, at = (b * H * W + cells[i]) * C; c < C; c += LANES)
                store(grad_x + at + c, load(addend + at + c) + load(from + c) / (float)T);
    });
}
