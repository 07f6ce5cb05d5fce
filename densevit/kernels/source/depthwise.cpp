// 3x3 depth-wise convolution of (B, H, W, C) maps, padding 1, with what stands before and after it in HLG.
#include "depthwise.h"

// The rows of a kernel, as bits, that meet something: with a gradient spread over every second row not all of them do.
constexpr int ALL = 7, MIDDLE = 2, OUTER = 5;

// Of a map's cell 8 channels, from `i` on; with a multiplier of 2 four, each for two channels of the output.
static inline vec channels(const float *row, long i, long multiplier) {
    if (multiplier == 1) return load(row + i);
    half_vec x;
    memcpy(&x, row + i / 2, sizeof x);
    return vec{x[0], x[0], x[1], x[1], x[2], x[2], x[3], x[3]};
}

// `N` output cells of 8 channels, `step` floats apart, from three padded rows of input.
template <int STRIDE, int N, int ROWS>
static inline void cells(const float *const rows[3], const vec w[9], vec bias, float *out, long step) {
    vec sums[N];
    for (int o = 0; o < N; o++) sums[o] = bias;
    for (int ky = 0; ky < 3; ky++)
        for (int t = 0; t < (N - 1) * STRIDE + 3 && ROWS >> ky & 1; t++) {
            vec x = load(rows[ky] + t * LANES);
            for (int o = 0; o < N; o++)
                if (t - o * STRIDE >= 0 && t - o * STRIDE < 3) sums[o] += w[ky * 3 + t - o * STRIDE] * x;
        }
    for (int o = 0; o < N; o++) store(out + o * step, sums[o]);
}

// A row of `count` such cells.
template <int STRIDE, int ROWS = ALL>
static void convolve(const float *const rows[3], const vec w[9], vec bias, long count, float *out, long step) {
    const float *r[3] = {rows[0], rows[1], rows[2]};
    auto next = [&](long n) {
        for (auto &row : r) row += n * STRIDE * LANES;
        out += n * step;
    };
    for (; count >= 4; count -= 4, next(4)) cells<STRIDE, 4, ROWS>(r, w, bias, out, step);
    for (; count > 0; count--, next(1)) cells<STRIDE, 1, ROWS>(r, w, bias, out, step);
}

// y <- [GELU](conv(GELU(scale * x + shift)) [+ bias]) [+ addend]; without `scale` the convolution takes x as it is.
// weight (9, C), y (B, Ho, Wo, C), addend like y; x has C channels, with a multiplier of 2, which `scale` does not go with, half.
extern "C" void depthwise(const float *x, const float *scale, const float *shift, const float *weight,
                          const float *bias, const float *addend, float *y, long B, long H, long W, long inputs,
                          long multiplier, long stride, long act, long threads) {
    long C = inputs * multiplier;
    long block = channel_block(B, W, C, threads), blocks = (C + block - 1) / block;
    long Ho = (H + stride - 1) / stride, Wo = (W + stride - 1) / stride;
    parallel(B * blocks, threads, [=](long task) {
        long b = task / blocks, c0 = task % blocks * block, c1 = c0 + block < C ? c0 + block : C;
        Ring ring(W, c0, c1);
        float *line = scratch(ring.floats() + Wo * LANES);
        ring.start(line + Wo * LANES);
        for (long i = 0; i < Ho; i++) {
            for (long r = ring.loaded + 1; r <= i * stride + 1; r++) {
                if (r >= H) { ring.clear(r); continue; }
                const float *row = x + (b * H + r) * W * inputs;
                if (scale)
                    ring.load(r, row, C, 1, [=](long i, long c, long) {
                        return gelu(load(row + i) * load(scale + c) + load(shift + c));
                    });
                else ring.load(r, row, C, 1, [=](long i, long, long) { return channels(row, i, multiplier); });
            }
            for (long c = c0; c < c1; c += LANES) {
                vec w[9];
                for (int k = 0; k < 9; k++) w[k] = load(weight + k * C + c);
                const float *rows[3] = {ring.row(i * stride - 1, c), ring.row(i * stride, c), ring.row(i * stride + 1, c)};
                float *out = y + (b * Ho + i) * Wo * C + c;
                const float *more = addend + (b * Ho + i) * Wo * C + c;
                bool is_done = !act && !addend;
                auto run = stride == 1 ? convolve<1> : convolve<2>;
                run(rows, w, bias ? load(bias + c) : splat(0), Wo, is_done ? out : line, is_done ? C : LANES);
                if (act) for (long j = 0; j < Wo; j++) store(out + j * C, gelu(load(line + j * LANES)));
                else if (addend) for (long j = 0; j < Wo; j++) store(out + j * C, load(line + j * LANES) + load(more + j * C));
            }
        }
    });
}

// Sums over a row of `count` cells: the nine of weight and one of bias that `grad` (count, 8) gives with three padded rows.
// Those of even and odd cells are apart, lest each wait for the one before.
static void weight_sums(const float *const rows[3], const float *grad, long count, vec sums[10]) {
    vec all = splat(0);
    for (int ky = 0; ky < 3; ky++) {
        vec even[3] = {}, odd[3] = {};
        long j = 0;
        for (; j + 2 <= count; j += 2) {
            vec g = kept(load(grad + j * LANES)), next = kept(load(grad + (j + 1) * LANES));
            const float *cell = rows[ky] + j * LANES;
            for (int kx = 0; kx < 3; kx++) {
                even[kx] += g * load(cell + kx * LANES);
                odd[kx] += next * load(cell + (kx + 1) * LANES);
            }
            if (ky == 0) all += g + next;
        }
        if (j < count) {
            vec g = load(grad + j * LANES);
            for (int kx = 0; kx < 3; kx++) even[kx] += g * load(rows[ky] + (j + kx) * LANES);
            if (ky == 0) all += g;
        }
        for (int kx = 0; kx < 3; kx++) sums[ky * 3 + kx] = even[kx] + odd[kx];
    }
    sums[9] = all;
}

// `N` times 8 channels of a row's last step of `depthwise_backward`: grad_x <- lines * slopes, its sums and, with x, those with
// x - mean. A cell's channels in `lines` and `slopes` lie W and `slopes_line` apart.
template <int N>
static void finish(const float *x, const float *mean, const float *lines, const float *slopes, long slopes_line,
                   float *grad_x, float *sums, long W, long C) {
    vec plain[N] = {}, along[N] = {};
    for (long j = 0; j < W; j++, grad_x += C, lines += LANES, slopes += LANES) {
        __builtin_prefetch(grad_x + AHEAD * C, 1);
        if (x) __builtin_prefetch(x + AHEAD * C);
        for (int n = 0; n < N; n++) {
            vec d = load(lines + n * W * LANES) * load(slopes + n * slopes_line);
            store(grad_x + n * LANES, d);
            if (!x) continue;
            plain[n] += d;
            along[n] += d * (load(x + n * LANES) - load(mean + n * LANES));
        }
        if (x) x += C;
    }
    for (int n = 0; n < N && x; n++, sums += LANES) {
        store(sums, load(sums) + plain[n]);
        store(sums + C, load(sums + C) + along[n]);
    }
}

// The same with a multiplier of 2 and no GELU: grad_x <- the sums of two channels each.
static void finish_pairs(const float *lines, float *grad_x, long W, long C) {
    for (long j = 0; j < W; j++, grad_x += C / 2, lines += LANES) {
        vec d = load(lines), sums = SHUFFLE(d, d, 0, 2, 4, 6, 0, 2, 4, 6) + SHUFFLE(d, d, 1, 3, 5, 7, 1, 3, 5, 7);
        memcpy(grad_x, &sums, sizeof(half_vec));
    }
}

// Gradients of `depthwise` without act and addend. grad_y (B, Ho, Wo, C) is that of its output; grad_x takes that by what
// stands in GELU (by x itself without `scale`). To `sums` (12, C) are added those of the weight (9), the bias and, with
// `scale`, grad_x, and grad_x times x - mean.
//
// With a stride of 2 the gradient is spread over every second cell of the input's size; then all is as with 1.
extern "C" void depthwise_backward(const float *x, const float *scale, const float *shift, const float *mean,
                                   const float *weight, const float *grad_y, float *grad_x, float *sums, long B, long H,
                                   long W, long inputs, long multiplier, long stride, long threads) {
    long C = inputs * multiplier;
    long block = channel_block(B, 3 * W, C, threads), blocks = (C + block - 1) / block;
    long Ho = (H + stride - 1) / stride, Wo = (W + stride - 1) / stride;
    parallel_sum(B * blocks, threads, sums, 12 * C, [=](long task, float *total) {
        long b = task / blocks, c0 = task % blocks * block, c1 = c0 + block < C ? c0 + block : C;
        Ring seen(W, c0, c1), slopes(W, c0, c1), grads(W, c0, c1);
        float *lines = scratch(3 * seen.floats() + W * (c1 - c0));
        seen.start(lines + W * (c1 - c0));
        slopes.start(seen.rows + seen.floats());
        grads.start(slopes.rows + slopes.floats());
        auto fill = [&](long r) {
            if (r >= H) { seen.clear(r); grads.clear(r); return; }
            const float *row = x + (b * H + r) * W * inputs, *from = grad_y + (b * Ho + r / stride) * Wo * C;
            float *to_slopes = slopes.row(r, c0) + LANES;
            seen.load(r, row, C, 1, [=](long i, long c, long at) {
                vec v = channels(row, i, multiplier), slope = splat(1);
                if (scale) v = gelu(v * load(scale + c) + load(shift + c), slope);
                store(to_slopes + at, slope);
                return v;
            });
            if (r % stride) grads.clear(r);
            else grads.load(r, from, C, stride, [=](long i, long, long) { return load(from + i); });
        };
        fill(0);
        for (long r = 0; r < H; r++) {
            fill(r + 1);
            for (long c = c0; c < c1; c += LANES) {
                vec w[9], s[10] = {};
                for (int k = 0; k < 9; k++) w[k] = load(weight + (8 - k) * C + c);
                const float *in[3] = {seen.row(r - 1, c), seen.row(r, c), seen.row(r + 1, c)};
                const float *out[3] = {grads.row(r - 1, c), grads.row(r, c), grads.row(r + 1, c)};
                if (r % stride == 0) weight_sums(in, out[1] + LANES, W, s);
                auto run = stride == 1 ? convolve<1> : r % 2 ? convolve<1, OUTER> : convolve<1, MIDDLE>;
                run(out, w, splat(0), W, lines + (c - c0) * W, LANES);
                for (int k = 0; k < 10; k++) store(total + k * C + c, load(total + k * C + c) + s[k]);
            }
            long row = (b * H + r) * W * inputs;
            for (long c = c0; c < c1 && multiplier == 2; c += LANES)
                finish_pairs(lines + (c - c0) * W, grad_x + row + c / 2, W, C);
            for (long c = c0; c < c1 && multiplier == 1; c += 2 * LANES)
                (c + LANES < c1 ? finish<2> : finish<1>)(scale ? x + row + c : nullptr, mean + c, lines + (c - c0) * W,
                                                         slopes.row(r, c) + LANES, slopes.line, grad_x + row + c,
                                                         total + 10 * C + c, W, C);
        }
    });
}
