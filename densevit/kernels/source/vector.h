// Eight floats at a time in the vector extensions that GCC and Clang share, and what HLG needs of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>

constexpr long LANES = 8;

typedef float vec __attribute__((vector_size(32)));
typedef float loose_vec __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t int_vec __attribute__((vector_size(32)));

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, int_vec{__VA_ARGS__})
#endif

static inline vec load(const float *p) { return *(const loose_vec *)p; }
static inline void store(float *p, vec x) { *(loose_vec *)p = x; }
static inline vec splat(float x) { return vec{x, x, x, x, x, x, x, x}; }

// The vector, in a register: GCC would load it again for each of several sums, and processors load no faster than they add.
#ifdef __AVX2__
static inline vec kept(vec x) {
    asm("" : "+x"(x));
    return x;
}
#else
static inline vec kept(vec x) { return x; }
#endif

static inline vec larger(vec a, vec b) { return a > b ? a : b; }

typedef float half_vec __attribute__((vector_size(16)));

struct Halves { half_vec low, high; };

static inline float sum(vec x) {
    Halves h;
    memcpy(&h, &x, sizeof x);
    half_vec s = h.low + h.high;
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static inline float largest(vec x) {
    Halves h;
    memcpy(&h, &x, sizeof x);
    half_vec m = h.low > h.high ? h.low : h.high;
    float a = m[0] > m[2] ? m[0] : m[2], b = m[1] > m[3] ? m[1] : m[3];
    return a > b ? a : b;
}

// Eight rows of eight, `from` floats apart, to eight columns, `to` floats apart: each step interlaces row i with row i + 4,
// which turns the six bits of an element's place by one.
static inline void transpose_tile(const float *k, long from, float *kt, long to) {
    vec a[8], b[8];
    for (int i = 0; i < 8; i++) a[i] = load(k + i * from);
    for (int step = 0; step < 3; step++) {
        for (int i = 0; i < 4; i++) {
            b[2 * i] = SHUFFLE(a[i], a[i + 4], 0, 8, 1, 9, 2, 10, 3, 11);
            b[2 * i + 1] = SHUFFLE(a[i], a[i + 4], 4, 12, 5, 13, 6, 14, 7, 15);
        }
        for (int i = 0; i < 8; i++) a[i] = b[i];
    }
    for (int i = 0; i < 8; i++) store(kt + i * to, a[i]);
}

// e^x for x <= 88, to 1e-7 of its value; below -87 it stays at e^-87.
static inline vec exponential(vec x) {
    x = larger(x, splat(-87.0f));
    vec shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the low bits are now the nearest integer
    vec n = shifted - 12582912.0f;
    vec f = x - n * 0.693359375f;
    f = f + n * 2.12194440e-4f;
    vec p = splat(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * (f * f) + f + 1.0f;
    return p * (vec)(((int_vec)shifted << 23) + 0x3f800000);
}

// The normal distribution's P(X <= x) to 2e-7: erf as x times a quotient of polynomials in x^2, fitted on |x| < 5.5.
static inline vec normal_cdf(vec x) {
    x = larger(x, splat(-5.5f));
    x = x < 5.5f ? x : splat(5.5f);
    vec t = x * x;
    vec p = splat(2.26537638e-08f), q = splat(1.1947111e-06f);
    p = p * t + 6.35198397e-06f;
    p = p * t + 0.000169568687f;
    p = p * t + 0.00468166502f;
    p = p * t + 0.0339307971f;
    p = p * t + 0.398942218f;
    q = q * t + 7.38588063e-05f;
    q = q * t + 0.00188865675f;
    q = q * t + 0.0286896098f;
    q = q * t + 0.251717776f;
    q = q * t + 1.0f;
    return x * p / q + 0.5f;
}

static inline vec gelu(vec x) { return x * normal_cdf(x); }

// GELU and its derivative. The normal density is needed anyway: from it P(X <= x) by Abramowitz and Stegun, 7.1.26, to 1e-7.
static inline vec gelu(vec x, vec &slope) {
    vec away = larger(x, -x), density = exponential(x * x * -0.5f);
    vec t = 1.0f / (1.0f + away * 0.231641888f);
    vec p = splat(1.061405429f);
    p = p * t - 1.453152027f;
    p = p * t + 1.421413741f;
    p = p * t - 0.284496736f;
    p = p * t + 0.254829592f;
    vec tail = p * t * density * 0.5f, cdf = x < 0.0f ? tail : 1.0f - tail;
    slope = cdf + x * density * 0.39894228f;
    return x * cdf;
}

// body(i) for i in 0 .. n - 1, spread over threads.
template <class Body> static void parallel(long n, long threads, const Body &body) {
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long i = 0; i < n; i++) body(i);
}

// body(i, sums) for i in 0 .. n - 1, where each thread adds to sums of its own; together they are added to `total`.
template <class Body> static void parallel_sum(long n, long threads, float *total, long count, const Body &body) {
    std::vector<float> sums(threads * count);
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (long i = 0; i < n; i++) body(i, sums.data() + omp_get_thread_num() * count);
    for (long t = 0; t < threads; t++)
        for (long i = 0; i < count; i++) total[i] += sums[t * count + i];
}

// A thread's own memory for n floats, at the start of a cache line; what the previous call left is lost. At most one piece
// is held at a time.
static inline float *scratch(long n) {
    static thread_local std::vector<float> memory;
    if ((long)memory.size() < n + 16) memory.resize(n + 16);
    return (float *)(((uintptr_t)memory.data() + 63) & ~(uintptr_t)63);
}
