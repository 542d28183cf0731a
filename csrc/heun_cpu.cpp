// The Heun updates and added noise on the CPU.

#include "elementwise.h"
#include "simd.h"

namespace ctm_fast {

#define CTM_FAST_UPDATES(T)                                                                        \
  CTM_FAST_CLONES static void scale(const T* __restrict__ x, T c_in, T* __restrict__ scaled,       \
                                    std::int64_t count) {                                          \
    for (std::int64_t i = 0; i < count; ++i) scaled[i] = c_in * x[i];                              \
  }                                                                                                \
  CTM_FAST_CLONES static void predict(const T* __restrict__ x, const T* __restrict__ f1, T alpha,  \
                                      T beta, T c_in, T* __restrict__ scaled,                      \
                                      std::int64_t count) {                                        \
    for (std::int64_t i = 0; i < count; ++i)                                                       \
      scaled[i] = c_in * predicted(x[i], f1[i], alpha, beta);                                      \
  }                                                                                                \
  CTM_FAST_CLONES static void combine(const T* __restrict__ x, const T* __restrict__ f1, T a, T b, \
                                      T c_in, T* __restrict__ next, T* __restrict__ scaled,        \
                                      std::int64_t count) {                                        \
    for (std::int64_t i = 0; i < count; ++i) {                                                     \
      const T moved = predicted(x[i], f1[i], a, b);                                                \
      next[i] = moved;                                                                             \
      scaled[i] = c_in * moved;                                                                    \
    }                                                                                              \
  }                                                                                                \
  CTM_FAST_CLONES static void correct(                                                             \
      const T* __restrict__ x, const T* __restrict__ f1, const T* __restrict__ f2, T a, T b, T c,  \
      T c_in, T* __restrict__ next, T* __restrict__ scaled, std::int64_t count) {                  \
    for (std::int64_t i = 0; i < count; ++i) {                                                     \
      const T moved = corrected(x[i], f1[i], f2[i], a, b, c);                                      \
      next[i] = moved;                                                                             \
      scaled[i] = c_in * moved;                                                                    \
    }                                                                                              \
  }
CTM_FAST_UPDATES(float)
CTM_FAST_UPDATES(double)
#undef CTM_FAST_UPDATES

namespace {

template <class T>
void run(const HeunStep& step, int threads) {
  const Port<T> network(step.network), out(step.out);
  each_block<T>(step.batch, step.size, threads,
                [&](std::int64_t sample, std::int64_t offset, std::int64_t count) {
                  alignas(64) T buffers[3][kBlock];
                  const T* x = static_cast<const T*>(step.x) + offset;
                  T* next = step.next == nullptr ? nullptr : static_cast<T*>(step.next) + offset;
                  T* scaled = out.target(step.scaled, offset, buffers[2]);
                  const T c_in = factor<T>(step.c_in, sample);
                  if (step.active != nullptr && !step.active[sample]) {
                    if (next != nullptr) std::memcpy(next, x, count * sizeof(T));
                    scale(x, c_in, scaled, count);
                  } else {
                    const T* f1 = network.in(step.f1, offset, buffers[0], count);
                    const T a = step.a == nullptr ? T(1) : factor<T>(step.a, sample);
                    const T b = factor<T>(step.b, sample);
                    if (step.f2 != nullptr) {
                      const T* f2 = network.in(step.f2, offset, buffers[1], count);
                      correct(x, f1, f2, a, b, factor<T>(step.c, sample), c_in, next, scaled,
                              count);
                    } else if (next != nullptr) {
                      combine(x, f1, a, b, c_in, next, scaled, count);
                    } else {
                      predict(x, f1, a, b, c_in, scaled, count);
                    }
                  }
                  out.out(scaled, step.scaled, offset, count);
                });
}

}  // namespace

void heun_cpu(const HeunStep& step, int threads) {
  if (step.state == Dtype::float64) {
    run<double>(step, threads);
  } else {
    run<float>(step, threads);
  }
}

}  // namespace ctm_fast
