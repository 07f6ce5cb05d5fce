// Attention on maps as they lie in memory: inside windows, and of every cell on keys of its own.
//
// A head has D channels, 8, 16, 24 or 32.
#include "attention.h"

template <int D>
static void windows(const float *q, const float *k, const float *v, const float *q_shift, const float *k_shift,
                    const float *v_shift, const float *bias, float *out, long B, long H, long W,
                    long heads, const Run &y, const Run &x, float scale, long threads) {
    long per_image = y.blocks * y.width * x.blocks * x.width, T = y.tokens * x.tokens, width = padded(T), C = heads * D;
    parallel(B * per_image, threads, [=](long index) {
        float *query = scratch(T * D * 4 + D * width + T * width + T);
        float *key = query + T * D, *value = key + T * D, *result = value + T * D, *kt = result + T * D;
        float *s = kt + D * width, *inverse = s + T * width;
        long cells[T], map = index / per_image * H * W;
        window_cells(index % per_image, y, x, W, cells);
        for (long h = 0; h < heads; h++) {
            auto part = [=](const float *shift) { return shift ? shift + h * D : nullptr; };
            gather<D>(q + map * C + h * D, C, part(q_shift), cells, T, scale, query);
            gather<D>(k + map * C + h * D, C, part(k_shift), cells, T, 1.0f, key);
            gather<D>(v + map * C + h * D, C, part(v_shift), cells, T, 1.0f, value);
            transpose(key, T, D, kt);
            scores(query, kt, T, width, D, s);
            softmax(s, bias ? Bias{bias + h * T * T, bias + heads * T * T} : Bias{}, T, T, inverse);
            mix<D, false>(s, width, 1, value, T, T, result);
            for (long i = 0; i < T; i++)
                for (long d = 0; d < D; d += LANES)
                    store(out + (map + cells[i]) * C + h * D + d, load(result + i * D + d) * inverse[i]);
        }
    });
}

template <int D>
static void on_keys(const float *q, long q_stride, const float *k, const float *v, long kv_stride, const float *bias,
                    float *out, long B, long N, long M, long heads, float scale, long threads) {
    long width = padded(M), C = heads * D, parts = 1;
    while (B * heads * parts < 4 * threads && N / parts > 2 * QUERIES && threads > 1) parts++;
    long share = (N + parts - 1) / parts;
    parallel(B * heads * parts, threads, [=](long task) {
        long b = task / (heads * parts), h = task / parts % heads, first = task % parts * share;
        long end = first + share < N ? first + share : N;
        float *query = scratch(QUERIES * (2 * D + width + 1) + M * D * 2 + D * width);
        float *result = query + QUERIES * D, *s = result + QUERIES * D, *inverse = s + QUERIES * width;
        float *key = inverse + QUERIES, *value = key + M * D, *kt = value + M * D;
        for (long i = 0; i < M; i++) {
            memcpy(key + i * D, k + (b * M + i) * kv_stride + h * D, D * sizeof(float));
            memcpy(value + i * D, v + (b * M + i) * kv_stride + h * D, D * sizeof(float));
        }
        transpose(key, M, D, kt);
        for (long i = first; i < end; i += QUERIES) {
            long n = i + QUERIES < end ? QUERIES : end - i;
            for (long r = 0; r < n; r++)
                for (long d = 0; d < D; d += LANES)
                    store(query + r * D + d, load(q + (b * N + i + r) * q_stride + h * D + d) * scale);
            scores(query, kt, n, width, D, s);
            softmax(s, bias ? Bias{bias + (h * N + i) * M, bias + heads * N * M} : Bias{}, n, M, inverse);
            mix<D, false>(s, width, 1, value, n, M, result);
            for (long r = 0; r < n; r++)
                for (long d = 0; d < D; d += LANES)
                    store(out + (b * N + i + r) * C + h * D + d, load(result + r * D + d) * inverse[r]);
        }
    });
}

// Attention inside every window of one group: out (B, H, W, heads * D) of q, k, v like it, bias (heads, T, T).
// Each of the shifts (heads * D), which may be null, is added to its map on the way.
extern "C" void window_attention(const float *q, const float *k, const float *v, const float *q_shift,
                                 const float *k_shift, const float *v_shift, const float *bias, float *out, long B,
                                 long H, long W, long heads, long dim, const Run *y, const Run *x, float scale,
                                 long threads) {
#define CALL(D) windows<D>(q, k, v, q_shift, k_shift, v_shift, bias, out, B, H, W, heads, *y, *x, scale, threads)
    BY_WIDTH(dim, CALL)
#undef CALL
}

// Attention of q (B, N, .) on k, v (B, M, .) with bias (heads, N, M): out (B, N, heads * D).
extern "C" void key_attention(const float *q, long q_stride, const float *k, const float *v, long kv_stride,
                              const float *bias, float *out, long B, long N, long M, long heads, long dim, float scale,
                              long threads) {
#define CALL(D) on_keys<D>(q, q_stride, k, v, kv_stride, bias, out, B, N, M, heads, scale, threads)
    BY_WIDTH(dim, CALL)
#undef CALL
}
