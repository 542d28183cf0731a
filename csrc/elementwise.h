// Elementwise work on the CPU: samples in parallel pieces, each in blocks that stay in the L1
// cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "heun.h"  // Dtype

namespace ctm_fast {

constexpr std::int64_t kBlock = 1024;           // elements converted and computed at a time
constexpr std::int64_t kChunk = 16 * kBlock;    // elements of one piece of parallel work
constexpr std::int64_t kSerialBytes = 1 << 16;  // below this, waking threads costs more

using Convert = void (*)(const void* from, void* to, std::int64_t count);

// Conversion between two dtypes; nullptr where they are the same.
Convert conversion(Dtype from, Dtype to);

// An image tensor that is read or written in blocks of T, the state's type.
template <class T>
class Port {
 public:
  explicit Port(Dtype dtype)
      : bytes_(dtype == Dtype::float64   ? 8
               : dtype == Dtype::float32 ? 4
                                         : 2),
        widen_(conversion(dtype, state())),
        narrow_(conversion(state(), dtype)) {}

  // `count` elements from `offset` on, in `buffer` if they had to be converted.
  const T* in(const void* base, std::int64_t offset, T* buffer, std::int64_t count) const {
    const char* source = static_cast<const char*>(base) + offset * bytes_;
    if (widen_ == nullptr) return reinterpret_cast<const T*>(source);
    widen_(source, buffer, count);
    return buffer;
  }

  // Where results go before `out` takes them to `base`.
  T* target(void* base, std::int64_t offset, T* buffer) const {
    return narrow_ == nullptr ? static_cast<T*>(base) + offset : buffer;
  }

  void out(const T* results, void* base, std::int64_t offset, std::int64_t count) const {
    if (narrow_ != nullptr) narrow_(results, static_cast<char*>(base) + offset * bytes_, count);
  }

 private:
  static constexpr Dtype state() {
    return std::is_same<T, double>::value ? Dtype::float64 : Dtype::float32;
  }

  std::int64_t bytes_;
  Convert widen_, narrow_;
};

// Calls visit(sample, offset, count) for blocks of all samples; where a block begins does not
// depend on `threads`.
template <class T, class Visit>
void each_block(std::int64_t batch, std::int64_t size, int threads, const Visit& visit) {
  const std::int64_t chunks = (size + kChunk - 1) / kChunk;
  if (batch * size * static_cast<std::int64_t>(sizeof(T)) < kSerialBytes) threads = 1;
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
  for (std::int64_t i = 0; i < batch * chunks; ++i) {
    const std::int64_t sample = i / chunks, begin = i % chunks * kChunk;
    const std::int64_t end = std::min(begin + kChunk, size);
    for (std::int64_t start = begin; start < end; start += kBlock)
      visit(sample, sample * size + start, std::min(kBlock, end - start));
  }
}

template <class T>
T factor(const void* values, std::int64_t sample) {
  return static_cast<const T*>(values)[sample];
}

}  // namespace ctm_fast
