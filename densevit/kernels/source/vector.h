// Eight floats at a time in the vector extensions that GCC and Clang share, and what HLG needs of them.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include <omp.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

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
// `larger` is a > b ? a : b, in one instruction: b where one of them is NaN.
#ifdef __AVX2__
static inline vec kept(vec x) {
    asm("" : "+x"(x));
    return x;
}
static inline vec larger(vec a, vec b) { return _mm256_max_ps(a, b); }
#else
static inline vec kept(vec x) { return x; }
static inline vec larger(vec a, vec b) { return a > b ? a : b; }
#endif

// The next multiple of a vector's length.
static inline long padded(long n) { return (n + LANES - 1) / LANES * LANES; }

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

// e^x for x <= 88, to 1e-7 of its value; below -87 it stays at e^-87. NaN stays NaN.
static inline vec exponential(vec x) {
    x = larger(splat(-87.0f), x);
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

// a[0] + a[1] x + a[2] x^2 ...
template <int N> static inline vec polynomial(vec x, const float (&a)[N]) {
    vec y = splat(a[N - 1]);
    for (int i = N - 2; i >= 0; i--) y = y * x + a[i];
    return y;
}

// GELU and its derivative, the normal distribution's P(X <= x) and that plus x times its density: a half plus x times a
// quotient of polynomials in x^2 with one divisor, fitted on |x| < 5.5, to 6e-7; beyond, GELU is x or 0.
static inline vec gelu(vec x, vec &slope) {
    vec near = larger(splat(-5.5f), -larger(splat(-5.5f), -x)), square = near * near;  // NaN stays NaN
    vec share = near / polynomial(square, {1.0f, 0.257416523f, 0.0300150196f, 0.00202101575f, 8.0466731e-05f, 1.15914128e-06f});
    slope = share * polynomial(square, {0.797885182f, -0.0605757112f, 0.0153304072f, -0.000466197273f, 3.20407126e-05f,
                                        -5.92021035e-07f, 8.35880618e-09f, -4.96716751e-11f}) + 0.5f;
    vec cdf = share * polynomial(square, {0.398941773f, 0.0362055156f, 0.00483051628f, 0.00019154052f, 6.47412503e-06f,
                                          2.12569395e-08f}) + 0.5f;
    return near * cdf + larger(x - near, splat(0.0f));
}

static inline vec gelu(vec x) {
    vec slope;
    return gelu(x, slope);
}

// body(i) for i in 0 .. n - 1, spread over threads. Each has a copy of the body: what that holds can then stay in registers,
// where otherwise every store might have changed it.
template <class Body> static void parallel(long n, long threads, const Body &body) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        const Body own = body;
#pragma omp for schedule(static)
        for (long i = 0; i < n; i++) own(i);
    }
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
