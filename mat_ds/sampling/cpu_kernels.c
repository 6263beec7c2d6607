/* The parameters' noise and samples on a CPU: see noise_kernel.py and step_kernel.py, whose kernels these are.

   Every operation is rounded once, as IEEE 754 says (-ffp-contract=off, no library functions but sqrtf), so that all processors
   and compilers come to the same bits, however they vectorise the loops. */

#include <math.h>
#include <stddef.h>
#include <stdint.h>

/* Counters at a time: what they fill stays in the first cache of a core. */
#define COUNTERS 256
#define NUMBERS (4 * COUNTERS)

static inline float as_float(uint32_t bits) {
    union { uint32_t bits; float number; } both = {bits};
    return both.number;
}

static inline uint32_t bits_of(float number) {
    union { float number; uint32_t bits; } both = {number};
    return both.bits;
}

/* Natural logarithm of a positive normal number: Cephes' polynomial on [sqrt(1/2), sqrt(2)). */
static inline float logarithm(float x) {
    uint32_t moved = bits_of(x) - 0x3F3504F3u; /* sqrt(1/2) */
    int32_t exponent = (int32_t)moved >> 23;
    float f = as_float((moved & 0x7FFFFFu) + 0x3F3504F3u) - 1.0f, e = (float)exponent, z = f * f;
    float p = 7.0376836292e-2f;
    p = p * f - 1.1514610310e-1f;
    p = p * f + 1.1676998740e-1f;
    p = p * f - 1.2420140846e-1f;
    p = p * f + 1.4249322787e-1f;
    p = p * f - 1.6668057665e-1f;
    p = p * f + 2.0000714765e-1f;
    p = p * f - 2.4999993993e-1f;
    p = p * f + 3.3333331174e-1f;
    p = p * f * z + e * -2.12194440e-4f - 0.5f * z;
    return f + p + e * 0.693359375f;
}

/* Box-Muller, as philox._normals: two normal numbers of two words. */
static inline void pair(uint32_t word, uint32_t other, float *first, float *second) {
    /* Both halves of the word are exact as floats, so the sum is rounded once. */
    float whole = (float)(int32_t)(word >> 16) * 65536.0f + (float)(int32_t)(word & 0xFFFFu);
    float radius = sqrtf(-2.0f * logarithm(whole * 0x1p-32f + 0x1p-33f));
    /* The angle is 2 pi / 2^32 times the other word: its quarter turns, and the rest within an eighth of a turn. */
    uint32_t turns = (other + 0x20000000u) >> 30;
    float a = (float)(int32_t)(other - (turns << 30)) * 1.4629180792671596e-9f, z = a * a;
    float sine = -1.9515295891e-4f, cosine = 2.443315711809948e-5f;
    sine = sine * z + 8.3321608736e-3f;
    sine = sine * z - 1.6666654611e-1f;
    sine = sine * z * a + a;
    cosine = cosine * z - 1.388731625493765e-3f;
    cosine = cosine * z + 4.166664568298827e-2f;
    cosine = cosine * z * z - 0.5f * z + 1.0f;
    uint32_t odd = 0u - (turns & 1u), c = bits_of(cosine), s = bits_of(sine);
    uint32_t x = (c & ~odd) | (s & odd), y = (s & ~odd) | (c & odd);
    x ^= ((turns + 1u) & 2u) << 30;
    y ^= (turns & 2u) << 30;
    *first = radius * as_float(x);
    *second = radius * as_float(y);
}

/* The four numbers of each of COUNTERS counters, one after another. */
static void normal_numbers(uint64_t counter, uint64_t key, float *restrict numbers) {
    uint32_t words[4][COUNTERS];
    for (int i = 0; i < COUNTERS; i++) {
        uint32_t c0 = (uint32_t)(counter + (uint64_t)i), c1 = (uint32_t)((counter + (uint64_t)i) >> 32), c2 = 0, c3 = 0;
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int round = 0; round < ROUNDS; round++) {
            uint64_t p0 = (uint64_t)c0 * MULTIPLIER_0, p1 = (uint64_t)c2 * MULTIPLIER_1;
            c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
            c1 = (uint32_t)p1;
            c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
            c3 = (uint32_t)p0;
            k0 += WEYL_0;
            k1 += WEYL_1;
        }
        words[0][i] = c0, words[1][i] = c1, words[2][i] = c2, words[3][i] = c3;
    }
    for (int i = 0; i < COUNTERS; i++) {
        pair(words[0][i], words[1][i], numbers + 4 * i, numbers + 4 * i + 1);
        pair(words[2][i], words[3][i], numbers + 4 * i + 2, numbers + 4 * i + 3);
    }
}

struct step {
    float rate, decay, rest_1, rest_2, root, eps, scale, anchor, weight;
    int32_t drift, mixed, start, last;
    uint64_t key;
};

static void drift(
    size_t count, float *restrict theta, const float *restrict gradient, float *restrict mean, float *restrict square,
    struct step s) {
    for (size_t i = 0; i < count; i++) {
        float g = gradient[i], m = mean[i] + s.rest_1 * (g - mean[i]), v = square[i] + s.rest_2 * (g * g - square[i]);
        mean[i] = m;
        square[i] = v;
        theta[i] = theta[i] * s.decay - s.rate * (m / (sqrtf(v) / s.root + s.eps));
    }
}

static void scaled(size_t count, float *restrict out, const float *restrict x, float factor) {
    for (size_t i = 0; i < count; i++) out[i] = factor * x[i];
}

static void add_scaled(size_t count, float *restrict out, const float *restrict x, float factor) {
    for (size_t i = 0; i < count; i++) out[i] += factor * x[i];
}

/* Advances `count` elements whose first has the place `place`; see step.py. If *is_void is not 0, theta and its moments
   stay as they are. */
void advance(
    size_t count, uint64_t place, float *restrict theta, const float *restrict gradient, float *restrict mean,
    float *restrict square, float *restrict mixture, const float *is_void, struct step s) {
    float numbers[NUMBERS];
    int valid = *is_void == 0.0f;
    for (size_t done = 0; done < count;) {
        size_t into = (size_t)((place + done) % 4), here = NUMBERS - into;
        if (here > count - done) here = count - done;
        if (s.mixed && s.start == 1) scaled(here, mixture + done, theta + done, s.anchor);
        if (s.drift && valid) drift(here, theta + done, gradient + done, mean + done, square + done, s);
        if (s.mixed && s.start == 2) scaled(here, mixture + done, theta + done, s.anchor);
        if (s.scale != 0.0f && valid) {
            normal_numbers((place + done) / 4, s.key, numbers);
            add_scaled(here, theta + done, numbers + into, s.scale);
        }
        if (s.mixed) {
            add_scaled(here, mixture + done, theta + done, s.weight);
            if (s.last && valid)
                for (size_t i = 0; i < here; i++) theta[done + i] = mixture[done + i];
        }
        done += here;
    }
}
