// Gradients of `window_attention` and `key_attention`; the probabilities are computed again.
#include "attention.h"

// The gradients of one block of queries of one head: of q, of k and v (added), of the scores (added to grad_bias).
template <int D> struct Block {
    long keys, width;
    const float *query, *key, *value, *kt, *vt;  // query scaled
    float *p, *s, *inverse;

    static long floats(long rows, long keys) { return 2 * rows * padded(keys) + rows; }

    void start(float *memory, long rows) {
        p = memory;
        s = p + rows * width;
        inverse = s + rows * width;
    }

    // grad (rows, D) by the output
    void backward(const float *grad, long rows, Bias bias, float scale, float *grad_q, float *grad_k, float *grad_v,
                  float *grad_bias) {
        scores(query, kt, rows, width, D, p);
        softmax(p, bias, rows, keys, inverse);
        scores(grad, vt, rows, width, D, s);
        for (long r = 0; r < rows; r++) {
            float *a = p + r * width, *b = s + r * width;
            vec sum_of = splat(0), over = splat(inverse[r]);
            for (long n = 0; n < width; n += LANES) {
                vec x = load(a + n) * over;
                store(a + n, x);
                sum_of += x * load(b + n);
            }
            vec mean = splat(sum(sum_of));
            for (long n = 0; n < width; n += LANES) store(b + n, load(a + n) * (load(b + n) - mean));
            if (grad_bias)
                for (long n = 0; n < keys; n++) grad_bias[r * keys + n] += b[n];
        }
        mix<D, false>(s, width, 1, key, rows, keys, grad_q);
        for (long i = 0; i < rows * D; i += LANES) store(grad_q + i, load(grad_q + i) * scale);
        mix<D, true>(s, 1, width, query, keys, rows, grad_k);
        mix<D, true>(p, 1, width, grad, keys, rows, grad_v);
    }
};

template <int D>
static void windows_backward(const float *q, const float *k, const float *v, const float *bias,
                             const float *grad, const float *addend, float *grad_q, float *grad_k, float *grad_v,
                             float *grad_bias, long B, long H, long W, long heads, const Run &y, const Run &x, float scale,
                             long threads) {
    long per_image = y.blocks * y.width * x.blocks * x.width, T = y.tokens * x.tokens, width = padded(T), C = heads * D;
    parallel_sum(B * per_image, threads, grad_bias, bias ? heads * T * T : 0, [=](long index, float *total) {
        float *query = scratch(T * D * 7 + 2 * D * width + Block<D>::floats(T, T));
        float *key = query + T * D, *value = key + T * D, *out = value + T * D, *dq = out + T * D, *dk = dq + T * D;
        float *dv = dk + T * D, *kt = dv + T * D, *vt = kt + D * width;
        Block<D> block{T, width, query, key, value, kt, vt, nullptr, nullptr, nullptr};
        block.start(vt + D * width, T);
        long cells[T], map = index / per_image * H * W;
        window_cells(index % per_image, y, x, W, cells);
        for (long h = 0; h < heads; h++) {
            gather<D>(q + map * C + h * D, C, nullptr, cells, T, scale, query);
            gather<D>(k + map * C + h * D, C, nullptr, cells, T, 1.0f, key);
            gather<D>(v + map * C + h * D, C, nullptr, cells, T, 1.0f, value);
            gather<D>(grad + map * C + h * D, C, nullptr, cells, T, 1.0f, out);
            transpose(key, T, D, kt);
            transpose(value, T, D, vt);
            memset(dk, 0, 2 * T * D * sizeof(float));
            Bias b = bias ? Bias{bias + h * T * T, bias + heads * T * T} : Bias{};
            block.backward(out, T, b, scale, dq, dk, dv, bias ? total + h * T * T : nullptr);
            for (long i = 0; i < T; i++)
                for (long d = 0; d < D; d += LANES) {
                    long cell = (map + cells[i]) * C + h * D + d;
                    vec by_q = load(dq + i * D + d), by_k = load(dk + i * D + d);
                    if (addend) by_q += load(addend + cell);
                    store(grad_q + cell, grad_k ? by_q : by_q + by_k);
                    if (grad_k) store(grad_k + cell, by_k);
                    store(grad_v + cell, load(dv + i * D + d));
                }
        }
    });
}

// As `window_attention` without shifts; grad_q takes the addend too, grad_bias (heads, T, T) is added to.
// Without grad_k, where k is q, it is in grad_q.
extern "C" void window_attention_backward(const float *q, const float *k, const float *v, const float *bias,
                                          const float *grad, const float *addend, float *grad_q, float *grad_k,
                                          float *grad_v, float *grad_bias, long B, long H, long W, long heads, long dim,
                                          const Run *y, const Run *x, float scale, long threads) {
#define CALL(D) windows_backward<D>(q, k, v, bias, grad, addend, grad_q, grad_k, grad_v, grad_bias, B, H, W, heads, *y, *x, scale, threads)
    BY_WIDTH(dim, CALL)
#undef CALL
}

template <int D>
static void on_keys_backward(const float *q, long q_stride, const float *k, const float *v, long kv_stride,
                             const float *bias, const float *grad, float *grad_q, float *grad_kv, float *grad_bias,
                             long B, long N, long M, long heads, long parts, float scale, long threads) {
    long width = padded(M), C = heads * D, share = (N + parts - 1) / parts;
    parallel(heads * parts, threads, [=](long task) {  // all images in one task: they share the bias and its gradient
        long h = task % heads, part = task / heads, first = part * share, end = first + share < N ? first + share : N;
        float *query = scratch(QUERIES * D * 3 + M * D * 4 + 2 * D * width + Block<D>::floats(QUERIES, M));
        float *out = query + QUERIES * D, *dq = out + QUERIES * D, *key = dq + QUERIES * D, *value = key + M * D;
        float *dk = value + M * D, *dv = dk + M * D, *kt = dv + M * D, *vt = kt + D * width;
        Block<D> block{M, width, query, key, value, kt, vt, nullptr, nullptr, nullptr};
        block.start(vt + D * width, QUERIES);
        for (long b = 0; b < B; b++) {
            for (long i = 0; i < M; i++) {
                memcpy(key + i * D, k + (b * M + i) * kv_stride + h * D, D * sizeof(float));
                memcpy(value + i * D, v + (b * M + i) * kv_stride + h * D, D * sizeof(float));
            }
            transpose(key, M, D, kt);
            transpose(value, M, D, vt);
            memset(dk, 0, 2 * M * D * sizeof(float));
            for (long i = first; i < end; i += QUERIES) {
                long n = i + QUERIES < end ? QUERIES : end - i;
                for (long r = 0; r < n; r++)
                    for (long d = 0; d < D; d += LANES) {
                        store(query + r * D + d, load(q + (b * N + i + r) * q_stride + h * D + d) * scale);
                        store(out + r * D + d, load(grad + (b * N + i + r) * C + h * D + d));
                    }
                Bias rows = bias ? Bias{bias + (h * N + i) * M, bias + heads * N * M} : Bias{};
                block.backward(out, n, rows, scale, dq, dk, dv, bias ? grad_bias + (h * N + i) * M : nullptr);
                for (long r = 0; r < n; r++)
                    memcpy(grad_q + (b * N + i + r) * C + h * D, dq + r * D, D * sizeof(float));
            }
            float *to = grad_kv + ((part * B + b) * 2 * M) * C + h * D;
            for (long i = 0; i < M; i++) {
                memcpy(to + i * C, dk + i * D, D * sizeof(float));
                memcpy(to + (M + i) * C, dv + i * D, D * sizeof(float));
            }
        }
    });
}

// As `key_attention`; grad_kv (parts, B, 2, M, heads * D) has the gradients of k and v, to be summed over the parts of the
// queries that were taken at once; grad_bias (heads, N, M) is added to.
extern "C" void key_attention_backward(const float *q, long q_stride, const float *k, const float *v, long kv_stride,
                                       const float *bias, const float *grad, float *grad_q, float *grad_kv,
                                       float *grad_bias, long B, long N, long M, long heads, long dim, long parts,
                                       float scale, long threads) {
#define CALL(D) on_keys_backward<D>(q, q_stride, k, v, kv_stride, bias, grad, grad_q, grad_kv, grad_bias, B, N, M, heads, parts, scale, threads)
    BY_WIDTH(dim, CALL)
#undef CALL
}
