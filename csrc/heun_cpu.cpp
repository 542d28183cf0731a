// The Heun updates on the CPU: conversions and arithmetic over blocks that stay in the L1 cache.

#include <algorithm>
#include <type_traits>

#include "heun.h"
#include "simd.h"

namespace ctm_fast {
namespace {

constexpr std::int64_t kBlock = 1024;           // elements converted and computed at a time
constexpr std::int64_t kChunk = 16 * kBlock;    // elements of one piece of parallel work
constexpr std::int64_t kSerialBytes = 1 << 16;  // below this, waking threads costs more

}  // namespace

#define CTM_FAST_CONVERSION(name, From, To, expression)                              \
  CTM_FAST_CLONES static void name(const void* from, void* to, std::int64_t count) { \
    const From* __restrict__ source = static_cast<const From*>(from);                \
    To* __restrict__ target = static_cast<To*>(to);                                  \
    for (std::int64_t i = 0; i < count; ++i) {                                       \
      const From v = source[i];                                                      \
      target[i] = expression;                                                        \
    }                                                                                \
  }
CTM_FAST_CONVERSION(half_to_float, std::uint16_t, float, widen_half(v))
CTM_FAST_CONVERSION(bfloat_to_float, std::uint16_t, float, widen_bfloat(v))
CTM_FAST_CONVERSION(float_to_half, float, std::uint16_t, narrow_half(v))
CTM_FAST_CONVERSION(float_to_bfloat, float, std::uint16_t, narrow_bfloat(v))
CTM_FAST_CONVERSION(float_to_double, float, double, static_cast<double>(v))
CTM_FAST_CONVERSION(double_to_float, double, float, static_cast<float>(v))
#undef CTM_FAST_CONVERSION

#define CTM_FAST_UPDATES(T, suffix)                                                               \
  CTM_FAST_CLONES static void scale_##suffix(const T* __restrict__ x, T c_in,                     \
                                             T* __restrict__ scaled, std::int64_t count) {        \
    for (std::int64_t i = 0; i < count; ++i) scaled[i] = c_in * x[i];                             \
  }                                                                                               \
  CTM_FAST_CLONES static void predict_##suffix(const T* __restrict__ x, const T* __restrict__ f1, \
                                               T alpha, T beta, T c_in, T* __restrict__ scaled,   \
                                               std::int64_t count) {                              \
    for (std::int64_t i = 0; i < count; ++i)                                                      \
      scaled[i] = c_in * predicted(x[i], f1[i], alpha, beta);                                     \
  }                                                                                               \
  CTM_FAST_CLONES static void correct_##suffix(                                                   \
      const T* __restrict__ x, const T* __restrict__ f1, const T* __restrict__ f2, T a, T b, T c, \
      T c_in, T* __restrict__ next, T* __restrict__ scaled, std::int64_t count) {                 \
    for (std::int64_t i = 0; i < count; ++i) {                                                    \
      const T moved = corrected(x[i], f1[i], f2[i], a, b, c);                                     \
      next[i] = moved;                                                                            \
      scaled[i] = c_in * moved;                                                                   \
    }                                                                                             \
  }
CTM_FAST_UPDATES(float, f32)
CTM_FAST_UPDATES(double, f64)
#undef CTM_FAST_UPDATES

namespace {

using Convert = void (*)(const void*, void*, std::int64_t);

struct Port {
  Dtype dtype;
  std::int64_t bytes;
  Convert widen, narrow;  // to and from the state's type; nullptr where they are the same
};

template <class T>
Port port(Dtype dtype) {
  switch (dtype) {
    case Dtype::bfloat16:
      return {dtype, 2, bfloat_to_float, float_to_bfloat};
    case Dtype::float16:
      return {dtype, 2, half_to_float, float_to_half};
    case Dtype::float32:
      if (std::is_same<T, float>::value) return {dtype, 4, nullptr, nullptr};
      return {dtype, 4, float_to_double, double_to_float};
    default:
      return {dtype, 8, nullptr, nullptr};
  }
}

template <class T>
const T* block_in(const Port& port, const void* base, std::int64_t offset, T* buffer,
                  std::int64_t count) {
  const char* source = static_cast<const char*>(base) + offset * port.bytes;
  if (port.widen == nullptr) return reinterpret_cast<const T*>(source);
  port.widen(source, buffer, count);
  return buffer;
}

void update(const float* x, const float* f1, const float* f2, const float* k, float* next,
            float* scaled, std::int64_t count) {
  if (f1 == nullptr) return scale_f32(x, k[3], scaled, count);
  if (f2 == nullptr) return predict_f32(x, f1, k[0], k[1], k[3], scaled, count);
  correct_f32(x, f1, f2, k[0], k[1], k[2], k[3], next, scaled, count);
}

void update(const double* x, const double* f1, const double* f2, const double* k, double* next,
            double* scaled, std::int64_t count) {
  if (f1 == nullptr) return scale_f64(x, k[3], scaled, count);
  if (f2 == nullptr) return predict_f64(x, f1, k[0], k[1], k[3], scaled, count);
  correct_f64(x, f1, f2, k[0], k[1], k[2], k[3], next, scaled, count);
}

template <class T>
T factor(const void* values, std::int64_t sample) {
  return values == nullptr ? T(0) : static_cast<const T*>(values)[sample];
}

// Elements [begin, end) of one sample.
template <class T>
void run_chunk(const HeunStep& step, std::int64_t sample, std::int64_t begin, std::int64_t end) {
  alignas(64) T buffer_f1[kBlock], buffer_f2[kBlock], buffer_scaled[kBlock];
  const Port network = port<T>(step.network), out = port<T>(step.out);
  const T k[4] = {factor<T>(step.a, sample), factor<T>(step.b, sample), factor<T>(step.c, sample),
                  factor<T>(step.c_in, sample)};
  const bool active = step.active == nullptr || step.active[sample];
  for (std::int64_t start = begin; start < end; start += kBlock) {
    const std::int64_t count = std::min(kBlock, end - start);
    const std::int64_t offset = sample * step.size + start;
    const T* x = static_cast<const T*>(step.x) + offset;
    T* next = step.next == nullptr ? nullptr : static_cast<T*>(step.next) + offset;
    const T *f1 = nullptr, *f2 = nullptr;
    if (active) {
      f1 = block_in<T>(network, step.f1, offset, buffer_f1, count);
      if (step.f2 != nullptr) f2 = block_in<T>(network, step.f2, offset, buffer_f2, count);
    } else if (next != nullptr) {
      std::memcpy(next, x, count * sizeof(T));
    }
    char* target = static_cast<char*>(step.scaled) + offset * out.bytes;
    T* scaled = out.narrow == nullptr ? reinterpret_cast<T*>(target) : buffer_scaled;
    update(x, f1, f2, k, next, scaled, count);
    if (out.narrow != nullptr) out.narrow(scaled, target, count);
  }
}

template <class T>
void run(const HeunStep& step, int threads) {
  const std::int64_t chunks = (step.size + kChunk - 1) / kChunk;
  const std::int64_t bytes = step.batch * step.size * static_cast<std::int64_t>(sizeof(T));
  if (bytes < kSerialBytes) threads = 1;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
  for (std::int64_t i = 0; i < step.batch * chunks; ++i) {
    const std::int64_t begin = i % chunks * kChunk;
    run_chunk<T>(step, i / chunks, begin, std::min(begin + kChunk, step.size));
  }
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
