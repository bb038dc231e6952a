// Numbers of the kernels: bf16 and fp32 in memory, fp32 in registers, and functions that a compiler can vectorise.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

struct bf16 {
    uint16_t bits;
};

inline float load(const float *from) { return *from; }
inline float load(const bf16 *from) {
    const uint32_t bits = uint32_t(from->bits) << 16;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}
inline void store(float *to, float value) { *to = value; }
inline void store(bf16 *to, float value) { // to the nearest, ties to even
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    to->bits = uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// e^x to 1e-7 of its size, by 2^n * e^r with r in +-ln(2)/2 and e^r by its series.
[[gnu::always_inline]] inline float exponential(float x) {
    x = x < -80.0f ? -80.0f : x; // farther out numbers get subnormal, which takes a processor a hundred times as long
    x = x > 80.0f ? 80.0f : x;
    const float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f; // the nearest whole number
    const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    float series = 1.0f / 720 + r * (1.0f / 5040);
    series = 1.0f / 120 + r * series;
    series = 1.0f / 24 + r * series;
    series = 1.0f / 6 + r * series;
    series = 1.0f + r * (1.0f + r * (0.5f + r * series));
    const int32_t bits = (int32_t(n) + 127) << 23;
    float power;
    std::memcpy(&power, &bits, sizeof power);
    return series * power;
}

struct Gate {
    float value, slope;
};

// SiLU, or where `gelu` the tanh form of GELU, and its derivative: both are x * sigmoid(k(x)).
template <bool gelu> [[gnu::always_inline]] inline Gate activate(float x) {
    const float c = 2 * 0.79788456f;
    const float inner = gelu ? c * (x + 0.044715f * x * x * x) : x, slope = gelu ? c * (1 + 0.134145f * x * x) : 1;
    const float sigmoid = 1.0f / (1.0f + exponential(-inner));
    return {x * sigmoid, sigmoid * (1.0f + x * (1.0f - sigmoid) * slope)};
}

// 32 random bits of an element's place and a seed (the finaliser of MurmurHash3).
inline uint32_t random_bits(uint32_t place, uint32_t low, uint32_t high) {
    uint32_t bits = place * 0x9e3779b9u + low;
    bits = (bits ^ (bits >> 16)) * 0x85ebca6bu;
    bits = ((bits ^ high) ^ (bits >> 13)) * 0xc2b2ae35u;
    return bits ^ (bits >> 16);
}

// The largest of the values, by sixteen maxima side by side: a compiler orders the comparisons of a single one.
inline float largest(const float *values, int64_t count) {
    float maxima[16];
    std::fill(maxima, maxima + 16, -INFINITY);
    const int64_t whole = count / 16 * 16;
    for (int64_t i = 0; i < whole; i += 16)
        for (int64_t lane = 0; lane < 16; lane++)
            maxima[lane] = values[i + lane] > maxima[lane] ? values[i + lane] : maxima[lane];
    return std::max(*std::max_element(maxima, maxima + 16),
                    whole < count ? *std::max_element(values + whole, values + count) : -INFINITY);
}

} // namespace
