// The jump and its gradient on the CPU.

#include "jump.h"

#include "elementwise.h"
#include "simd.h"

namespace ctm_fast {

#define CTM_FAST_JUMP(T)                                                                          \
  CTM_FAST_CLONES static void combine(const T* __restrict__ x, const T* __restrict__ f, T p, T q, \
                                      T* __restrict__ result, std::int64_t count) {               \
    for (std::int64_t i = 0; i < count; ++i) result[i] = predicted(x[i], f[i], p, q);             \
  }                                                                                               \
  CTM_FAST_CLONES static void scale(const T* __restrict__ g, T by, T* __restrict__ result,        \
                                    std::int64_t count) {                                         \
    for (std::int64_t i = 0; i < count; ++i) result[i] = by * g[i];                               \
  }
CTM_FAST_JUMP(float)
CTM_FAST_JUMP(double)
#undef CTM_FAST_JUMP

namespace {

template <class T>
void forward(const Jump& jump, const void* x, const void* f, void* result, int threads) {
  const Port<T> network(jump.network);
  each_block<T>(jump.batch, jump.size, threads,
                [&](std::int64_t sample, std::int64_t offset, std::int64_t count) {
                  alignas(64) T buffer[kBlock];
                  const T* outputs = network.in(f, offset, buffer, count);
                  combine(static_cast<const T*>(x) + offset, outputs, factor<T>(jump.p, sample),
                          factor<T>(jump.q, sample), static_cast<T*>(result) + offset, count);
                });
}

template <class T>
void backward(const Jump& jump, const void* g, void* dx, void* df, int threads) {
  const Port<T> network(jump.network);
  each_block<T>(jump.batch, jump.size, threads,
                [&](std::int64_t sample, std::int64_t offset, std::int64_t count) {
                  const T* gradient = static_cast<const T*>(g) + offset;
                  if (dx != nullptr) {
                    scale(gradient, factor<T>(jump.p, sample), static_cast<T*>(dx) + offset, count);
                  }
                  if (df == nullptr) return;
                  alignas(64) T buffer[kBlock];
                  T* target = network.target(df, offset, buffer);
                  scale(gradient, factor<T>(jump.q, sample), target, count);
                  network.out(target, df, offset, count);
                });
}

}  // namespace

void jump_cpu(const Jump& jump, const void* x, const void* f, void* result, int threads) {
  (jump.state == Dtype::float64 ? forward<double> : forward<float>)(jump, x, f, result, threads);
}

void jump_backward_cpu(const Jump& jump, const void* g, void* dx, void* df, int threads) {
  (jump.state == Dtype::float64 ? backward<double> : backward<float>)(jump, g, dx, df, threads);
}

}  // namespace ctm_fast
