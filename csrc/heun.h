// One Heun step as two elementwise updates; the letters are those of kernels/heun.py.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define CTM_FAST_INLINE __host__ __device__ __forceinline__
#else
#define CTM_FAST_INLINE inline
#endif

namespace ctm_fast {

// The codes of kernels/_native.py.
enum class Dtype : int { float32 = 0, bfloat16 = 1, float16 = 2, float64 = 3 };

template <class T>
CTM_FAST_INLINE T predicted(T x, T f1, T alpha, T beta) {
  return alpha * x + beta * f1;
}

template <class T>
CTM_FAST_INLINE T corrected(T x, T f1, T f2, T a, T b, T c) {
  return a * x + b * f1 + c * f2;
}

// Every image tensor is `batch` dense slabs of `size` elements in one order; nothing is owned.
// The predictor is the case f2 == nullptr: a and b hold alpha and beta, `next` is not written.
struct HeunStep {
  const void* x;   // (batch, size) state
  const void* f1;  // (batch, size) network
  const void* f2;  // (batch, size) network
  const void* a;   // (batch,) state, like b, c and c_in
  const void* b;
  const void* c;
  const void* c_in;
  const bool* active;  // (batch,), or nullptr: every sample moves
  void* next;          // (batch, size) state
  void* scaled;        // (batch, size) out
  std::int64_t batch;
  std::int64_t size;
  Dtype state, network, out;
};

void heun_cpu(const HeunStep& step, int threads);

// Enqueues on `stream` of `device` and returns; throws std::runtime_error if the launch fails.
void heun_cuda(const HeunStep& step, int device, void* stream);

}  // namespace ctm_fast
