// The little MLP of a dynamic position bias, laid out for attention: Linear(2, dim), then three times LayerNorm, ReLU, Linear.
// Weights are those of its parts in turn, weight and bias each.
#include "vector.h"

constexpr long WIDEST = 64, GROUP = 4;  // dim and heads, at most; offsets at a time

// Distinct offsets (down, across), queries (H, W), keys (nh, nw).
struct Sizes { int64_t heads, dim, down, across, H, W, nh, nw; };

// Rows of a matrix, or its columns, in whole vectors: zero beyond.
static std::vector<float> widened(const float *matrix, long rows, long columns, bool turned = false) {
    long count = turned ? columns : rows, width = padded(turned ? rows : columns);
    std::vector<float> out(count * width);
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) out[turned ? c * width + r : r * width + c] = matrix[r * columns + c];
    return out;
}

typedef float Rows[GROUP][WIDEST];

struct Layer {
    long dim, width;
    std::vector<float> gain, shift, weight, turned, bias;

    Layer(const float *const *w, long dim, long width)
        : dim(dim), width(width), gain(widened(w[0], 1, dim)), shift(widened(w[1], 1, dim)), weight(widened(w[2], width, dim)),
          turned(widened(w[2], width, dim, true)), bias(widened(w[3], 1, width)) {}

    long floats() const { return (2 + width) * padded(dim) + padded(width); }
};

// What the backward pass needs of a layer.
struct Kept { Rows normed, rectified; float inverse[GROUP]; };

// A row without its mean, zero beyond `dim`; its sum of squares.
static vec centred(float *row, long dim) {
    vec total = splat(0), squares = splat(0);
    for (long c = 0; c < dim; c += LANES) total += load(row + c);
    vec mean = splat(sum(total) / dim);
    for (long c = 0; c < dim; c += LANES) store(row + c, load(row + c) - mean);
    for (long c = dim; c < padded(dim); c++) row[c] = 0;
    for (long c = 0; c < dim; c += LANES) squares += load(row + c) * load(row + c);
    return squares;
}

// h <- Linear(ReLU(LayerNorm(h))); NaN stays NaN
static void forward(const Layer &layer, Rows h, Kept &kept, float eps) {
    long dim = layer.dim, wide = padded(layer.width);
    for (long i = 0; i < GROUP; i++) {
        float inverse = kept.inverse[i] = 1.0f / __builtin_sqrtf(sum(centred(h[i], dim)) / dim + eps);
        for (long c = 0; c < dim; c += LANES) {
            vec normed = load(h[i] + c) * inverse;
            store(kept.normed[i] + c, normed);
            store(kept.rectified[i] + c, larger(splat(0), normed * load(&layer.gain[c]) + load(&layer.shift[c])));
        }
    }
    for (long n = 0; n < wide; n += LANES) {
        vec sums[GROUP];
        for (auto &s : sums) s = load(&layer.bias[n]);
        for (long d = 0; d < dim; d++)
            for (long i = 0; i < GROUP; i++) sums[i] += kept.rectified[i][d] * load(&layer.turned[d * wide + n]);
        for (long i = 0; i < GROUP; i++) store(h[i] + n, sums[i]);
    }
}

// g <- the gradient by a layer's input from `g`, that by its output; added to `sums` are those by gain, shift, weight and bias.
static void backward(const Layer &layer, const Kept &kept, Rows g, float *sums) {
    long dim = layer.dim, D = padded(dim), width = layer.width;
    Rows of_normed;
    for (long c = 0; c < D; c += LANES) {
        vec of[GROUP] = {};
        for (long n = 0; n < width; n++) {
            vec weight = load(&layer.weight[n * D + c]), by_weight = load(sums + (2 + n) * D + c);
            for (long i = 0; i < GROUP; i++) {
                of[i] += g[i][n] * weight;
                by_weight += g[i][n] * load(kept.rectified[i] + c);
            }
            store(sums + (2 + n) * D + c, by_weight);
        }
        for (long i = 0; i < GROUP; i++) {
            of[i] = load(kept.rectified[i] + c) > 0 ? of[i] : splat(0);
            store(sums + c, load(sums + c) + of[i] * load(kept.normed[i] + c));
            store(sums + D + c, load(sums + D + c) + of[i]);
            store(of_normed[i] + c, of[i] * load(&layer.gain[c]));
        }
    }
    for (long i = 0; i < GROUP; i++) {
        for (long n = 0; n < width; n++) sums[(2 + width) * D + n] += g[i][n];
        vec slopes = splat(0);
        for (long c = 0; c < dim; c += LANES) slopes += load(of_normed[i] + c) * load(kept.normed[i] + c);
        vec slope = splat(sum(slopes) / dim);
        centred(of_normed[i], dim);
        for (long c = 0; c < dim; c += LANES)
            store(g[i] + c, (load(of_normed[i] + c) - load(kept.normed[i] + c) * slope) * kept.inverse[i]);
    }
}

struct MLP {
    long dim;
    std::vector<float> first, bias;
    Layer layers[3];

    MLP(const float *const *w, long heads, long dim)
        : dim(dim), first(widened(w[0], dim, 2, true)), bias(widened(w[1], 1, dim)),
          layers{{w + 2, dim, dim}, {w + 6, dim, dim}, {w + 10, dim, heads}} {}

    void start(const float (&offsets)[GROUP][2], Rows h) const {
        for (long i = 0; i < GROUP; i++)
            for (long c = 0; c < dim; c += LANES)
                store(h[i] + c, offsets[i][0] * load(&first[c]) + offsets[i][1] * load(&first[padded(dim) + c]) + load(&bias[c]));
    }

    long floats() const {
        long n = 3 * padded(dim);
        for (auto &layer : layers) n += layer.floats();
        return n;
    }
};

// The offsets of group `g`; the last group repeats the last offset.
static void offsets_of(long g, const float *y, const float *x, const Sizes &s, float (&offsets)[GROUP][2]) {
    for (long i = 0, last = s.down * s.across - 1; i < GROUP; i++) {
        long u = g * GROUP + i < last ? g * GROUP + i : last;
        offsets[i][0] = y[u / s.across], offsets[i][1] = x[u % s.across];
    }
}

// table (heads, down, across), bias (heads, H * W, nh * nw) <- by offsets y (down), x (across), and their indices (H, nh) and
// (W, nw).
extern "C" void position_bias(const float *y, const float *x, const int64_t *index_y, const int64_t *index_x,
                              const float *const *weights, float *table, float *bias, float eps, const Sizes *sizes,
                              long threads) {
    const Sizes s = *sizes;
    const MLP mlp(weights, s.heads, s.dim);
    long count = s.down * s.across, queries = s.H * s.W, keys = s.nh * s.nw;
    parallel((count + GROUP - 1) / GROUP, threads, [=, &mlp](long g) {
        float offsets[GROUP][2];
        Rows h;
        Kept kept;
        offsets_of(g, y, x, s, offsets);
        mlp.start(offsets, h);
        for (auto &layer : mlp.layers) forward(layer, h, kept, eps);
        for (long i = 0; i < GROUP && g * GROUP + i < count; i++)
            for (long n = 0; n < s.heads; n++) table[n * count + g * GROUP + i] = h[i][n];
    });
    parallel(s.heads * queries, threads, [=](long row) {
        const float *own = table + row / queries * count;
        const int64_t *down = index_y + row % queries / s.W * s.nh, *across = index_x + row % s.W * s.nw;
        for (long a = 0; a < s.nh; a++)
            for (long b = 0; b < s.nw; b++) bias[row * keys + a * s.nw + b] = own[down[a] * s.across + across[b]];
    });
}

// of_table (heads, down, across) <- the sums of `grad` over all pairs with an offset, which tells a key's query: that of row
// `query_y` (down, nh), column `query_x` (across, nw); below 0 there is none.
static void add_pairs(const int64_t *query_y, const int64_t *query_x, const float *grad, const Sizes &s, float *of_table,
                      long threads) {
    parallel(s.heads * s.down, threads, [=](long row) {
        long head = row / s.down, keys = s.nh * s.nw;
        for (long u = 0; u < s.across; u++) {
            float total = 0;
            for (long a = 0; a < s.nh; a++) {
                long line = query_y[row % s.down * s.nh + a];
                if (line < 0) continue;
                const float *of_line = grad + (head * s.H + line) * s.W * keys + a * s.nw;
                for (long b = 0; b < s.nw; b++) {
                    long column = query_x[u * s.nw + b];
                    if (column >= 0) total += of_line[column * keys + b];
                }
            }
            of_table[row * s.across + u] = total;
        }
    });
}

// To `sums` are added the gradients of all weights, in turn, from `grad`, that by `bias`.
extern "C" void position_bias_backward(const float *y, const float *x, const int64_t *query_y, const int64_t *query_x,
                                       const float *const *weights, const float *grad, float *sums, float eps,
                                       const Sizes *sizes, long threads) {
    const Sizes s = *sizes;
    const MLP mlp(weights, s.heads, s.dim);
    long count = s.down * s.across, D = padded(s.dim);
    std::vector<float> of_table(s.heads * count), wide(mlp.floats());
    add_pairs(query_y, query_x, grad, s, of_table.data(), threads);
    parallel_sum((count + GROUP - 1) / GROUP, threads, wide.data(), wide.size(), [&](long group, float *own) {
        float offsets[GROUP][2];
        Rows h, g = {};
        Kept kept[3];
        offsets_of(group, y, x, s, offsets);
        mlp.start(offsets, h);
        for (long l = 0; l < 3; l++) forward(mlp.layers[l], h, kept[l], eps);
        for (long i = 0; i < GROUP && group * GROUP + i < count; i++)
            for (long n = 0; n < s.heads; n++) g[i][n] = of_table[n * count + group * GROUP + i];
        float *to = own + mlp.floats();
        for (long l = 2; l >= 0; l--) backward(mlp.layers[l], kept[l], g, to -= mlp.layers[l].floats());
        for (long i = 0; i < GROUP; i++)
            for (long c = 0; c < D; c += LANES)
                for (long part = 0; part < 3; part++) {
                    float *of = own + part * D + c;
                    store(of, load(of) + load(g[i] + c) * (part < 2 ? offsets[i][part] : 1.0f));
                }
    });
    const float *from = wide.data();
    for (long d = 0; d < s.dim; d++)
        for (long part = 0; part < 2; part++) sums[d * 2 + part] += from[part * D + d];
    sums += 2 * s.dim, from += 2 * D;
    auto narrow = [&](long rows, long width) {
        for (long r = 0; r < rows; r++, from += padded(width))
            for (long c = 0; c < width; c++) *sums++ += from[c];
    };
    narrow(1, s.dim);
    for (auto &layer : mlp.layers) narrow(2 + layer.width, s.dim), narrow(1, layer.width);
}
