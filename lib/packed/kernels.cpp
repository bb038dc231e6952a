// What a decoder layer does between its products, each in one pass over memory, for fp32 and bf16 in memory and fp32 in
// registers. Loops are plain, for the compiler to vectorise. lib/packed/kernels.py compiles and calls them.

#include "kernels.h"

#include <vector>

namespace {

constexpr int64_t LEAST = 16384; // elements: fewer are not worth a second thread

// out = x * inverse * (offset + weight), inverse [rows] = 1 / sqrt(mean(x^2) + epsilon).
template <class T>
void rms_norm(const T *x, const T *weight, T *out, float *inverse, int64_t rows, int64_t width, float epsilon,
              float offset, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > LEAST)
    for (int64_t row = 0; row < rows; row++) {
        const T *from = x + row * width;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t i = 0; i < width; i++)
            squares += load(from + i) * load(from + i);
        const float scale = inverse[row] = 1.0f / std::sqrt(squares / float(width) + epsilon);
        for (int64_t i = 0; i < width; i++)
            store(out + row * width + i, load(from + i) * scale * (offset + load(weight + i)));
    }
}

template <class T>
void rms_norm_backward(const T *upstream, const T *x, const T *weight, const float *inverse, T *out, int64_t rows,
                       int64_t width, float offset, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > LEAST)
    for (int64_t row = 0; row < rows; row++) {
        const T *from = x + row * width, *above = upstream + row * width;
        float dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t i = 0; i < width; i++)
            dot += load(above + i) * (offset + load(weight + i)) * load(from + i);
        const float scale = inverse[row], along = dot * scale * scale * scale / float(width);
        for (int64_t i = 0; i < width; i++)
            store(out + row * width + i,
                  load(above + i) * (offset + load(weight + i)) * scale - load(from + i) * along);
    }
}

template <class T, bool gelu> void gate_all(const T *gate, const T *up, T *out, int64_t count, int64_t threads) {
#pragma omp parallel for simd num_threads(threads) if (count > LEAST)
    for (int64_t i = 0; i < count; i++)
        store(out + i, activate<gelu>(load(gate + i)).value * load(up + i));
}

template <class T, bool gelu>
void gate_all_backward(const T *upstream, const T *gate, const T *up, T *of_gate, T *of_up, int64_t count,
                       int64_t threads) {
#pragma omp parallel for simd num_threads(threads) if (count > LEAST)
    for (int64_t i = 0; i < count; i++) {
        const Gate own = activate<gelu>(load(gate + i));
        const float above = load(upstream + i);
        store(of_gate + i, above * load(up + i) * own.slope);
        store(of_up + i, above * own.value);
    }
}

// out = x / kept where the element is kept, else 0; or out += that.
template <class T, bool add>
void drop(const T *x, T *out, int64_t count, uint64_t seed, uint32_t dropped, float scale, int64_t threads) {
    const uint32_t low = uint32_t(seed), high = uint32_t(seed >> 32);
#pragma omp parallel for simd num_threads(threads) if (count > LEAST)
    for (int64_t i = 0; i < count; i++) {
        const float value = random_bits(uint32_t(i), low, high) >= dropped ? load(x + i) * scale : 0.0f;
        store(out + i, add ? load(out + i) + value : value);
    }
}

// Rotary embedding: x [batch, length, heads, width] by tables [batch, length, width] whose halves are equal, into out
// [batch, heads, length, width]; with `back` its transpose, from out's layout into x's.
template <class T, bool back>
void rotate(const T *x, const T *cosine, const T *sine, T *out, int64_t batch, int64_t length, int64_t heads,
            int64_t width, int64_t threads) {
    const int64_t half = width / 2;
#pragma omp parallel for num_threads(threads) if (batch * length * heads * width > LEAST)
    for (int64_t token = 0; token < batch * length; token++) {
        const T *c = cosine + token * width, *s = sine + token * width;
        for (int64_t head = 0; head < heads; head++) {
            const int64_t by_token = (token * heads + head) * width;
            const int64_t by_head = ((token / length * heads + head) * length + token % length) * width;
            const T *from = x + (back ? by_head : by_token);
            T *to = out + (back ? by_token : by_head);
#pragma omp simd
            for (int64_t i = 0; i < half; i++) {
                const float first = load(from + i), second = load(from + half + i);
                const float turn = back ? -load(s + i) : load(s + i);
                store(to + i, first * load(c + i) - second * turn);
                store(to + half + i, second * load(c + i) + first * turn);
            }
        }
    }
}

// Softmax over scores [rows, width] * scale + mask, in place; row r has the mask's row r modulo `queries`.
template <class T>
void masked_softmax(T *scores, const T *mask, int64_t rows, int64_t width, int64_t queries, int64_t mask_stride,
                    float scale, int64_t threads) {
#pragma omp parallel num_threads(threads) if (rows * width > LEAST)
    {
        std::vector<float> buffer(width);
        float *values = buffer.data();
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            T *own = scores + row * width;
            const T *hidden = mask + row % queries * mask_stride;
            for (int64_t i = 0; i < width; i++)
                values[i] = load(own + i) * scale + load(hidden + i);
            const float highest = largest(values, width);
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; i++) {
                const float below = values[i] - highest;
                values[i] = below < -80.0f ? 0.0f : exponential(below);
                sum += values[i];
            }
            for (int64_t i = 0; i < width; i++)
                store(own + i, values[i] * (1.0f / sum));
        }
    }
}

// gradient [rows, width] of probabilities into that of the scores before they were scaled, in place.
template <class T>
void softmax_backward(const T *probabilities, T *gradient, int64_t rows, int64_t width, float scale, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (rows * width > LEAST)
    for (int64_t row = 0; row < rows; row++) {
        const T *p = probabilities + row * width;
        T *g = gradient + row * width;
        float mean = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t i = 0; i < width; i++)
            mean += load(p + i) * load(g + i);
        for (int64_t i = 0; i < width; i++)
            store(g + i, load(p + i) * (load(g + i) - mean) * scale);
    }
}

// Logits [rows, width] into exp(logit - highest), with the running maximum and sum of exponentials [rows] of a row of
// many such slices, and what its earlier sums shrink by, shrink [rows].
template <class T>
void add_exponentials(T *logits, float *highest, float *normaliser, float *shrink, int64_t rows, int64_t width,
                      int64_t threads) {
#pragma omp parallel num_threads(threads) if (rows * width > LEAST)
    {
        std::vector<float> buffer(width);
        float *values = buffer.data();
#pragma omp for
        for (int64_t row = 0; row < rows; row++) {
            T *own = logits + row * width;
            for (int64_t i = 0; i < width; i++)
                values[i] = load(own + i);
            const float risen = std::max(highest[row], largest(values, width));
            float sum = 0;
#pragma omp simd reduction(+ : sum)
            for (int64_t i = 0; i < width; i++) {
                const float value = exponential(values[i] - risen);
                sum += value;
                store(own + i, value);
            }
            shrink[row] = std::exp(highest[row] - risen);
            normaliser[row] = normaliser[row] * shrink[row] + sum;
            highest[row] = risen;
        }
    }
}

} // namespace

#define EXPORT(T, NAME)                                                                                                \
    extern "C" void rms_norm_##NAME(const T *x, const T *weight, T *out, float *inverse, int64_t rows, int64_t width,  \
                                    float epsilon, float offset, int64_t threads) {                                    \
        rms_norm(x, weight, out, inverse, rows, width, epsilon, offset, threads);                                      \
    }                                                                                                                  \
    extern "C" void rms_norm_backward_##NAME(const T *upstream, const T *x, const T *weight, const float *inverse,     \
                                             T *out, int64_t rows, int64_t width, float offset, int64_t threads) {     \
        rms_norm_backward(upstream, x, weight, inverse, out, rows, width, offset, threads);                            \
    }                                                                                                                  \
    extern "C" void gate_##NAME(const T *gate, const T *up, T *out, int64_t count, int64_t gelu, int64_t threads) {    \
        (gelu ? gate_all<T, true> : gate_all<T, false>)(gate, up, out, count, threads);                                \
    }                                                                                                                  \
    extern "C" void gate_backward_##NAME(const T *upstream, const T *gate, const T *up, T *of_gate, T *of_up,          \
                                         int64_t count, int64_t gelu, int64_t threads) {                               \
        (gelu ? gate_all_backward<T, true> : gate_all_backward<T, false>)(upstream, gate, up, of_gate, of_up, count,   \
                                                                          threads);                                    \
    }                                                                                                                  \
    extern "C" void drop_##NAME(const T *x, T *out, int64_t count, int64_t seed, int64_t dropped, float scale,         \
                                int64_t add, int64_t threads) {                                                        \
        (add ? drop<T, true> : drop<T, false>)(x, out, count, uint64_t(seed), uint32_t(dropped), scale, threads);      \
    }                                                                                                                  \
    extern "C" void rotate_##NAME(const T *x, const T *cosine, const T *sine, T *out, int64_t batch, int64_t length,   \
                                  int64_t heads, int64_t width, int64_t back, int64_t threads) {                       \
        (back ? rotate<T, true> : rotate<T, false>)(x, cosine, sine, out, batch, length, heads, width, threads);       \
    }                                                                                                                  \
    extern "C" void masked_softmax_##NAME(T *scores, const T *mask, int64_t rows, int64_t width, int64_t queries,      \
                                          int64_t mask_stride, float scale, int64_t threads) {                         \
        masked_softmax(scores, mask, rows, width, queries, mask_stride, scale, threads);                               \
    }                                                                                                                  \
    extern "C" void add_exponentials_##NAME(T *logits, float *highest, float *normaliser, float *shrink, int64_t rows, \
                                            int64_t width, int64_t threads) {                                          \
        add_exponentials(logits, highest, normaliser, shrink, rows, width, threads);                                   \
    }                                                                                                                  \
    extern "C" void softmax_backward_##NAME(const T *probabilities, T *gradient, int64_t rows, int64_t width,          \
                                            float scale, int64_t threads) {                                            \
        softmax_backward(probabilities, gradient, rows, width, scale, threads);                                        \
    }
EXPORT(float, f32)
EXPORT(bf16, bf16)
