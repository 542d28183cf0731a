// Elementwise updates of a solver's state: Heun's predictor and corrector (the letters are those of
// kernels/heun.py), and noise added to images.
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

// next = a x + b f1 + c f2 and scaled = c_in next. Every image tensor is `batch` dense slabs of
// `size` elements in one order; nothing is owned.
// Predictor: no f2, no next. Corrector: all. Added noise: f1 is the noise, no a, no f2.
struct HeunStep {
  const void* x;   // (batch, size) state
  const void* f1;  // (batch, size) network
  const void* f2;  // (batch, size) network, or nullptr: two terms
  const void* a;   // (batch,) state, like b, c and c_in; or nullptr: 1
  const void* b;
  const void* c;  // not read without f2
  const void* c_in;
  const bool* active;  // (batch,): next = x for the others; or nullptr: every sample moves
  void* next;          // (batch, size) state, or nullptr: not wanted
  void* scaled;        // (batch, size) out
  std::int64_t batch;
  std::int64_t size;
  Dtype state, network, out;
};

void heun_cpu(const HeunStep& step, int threads);

// Enqueues on `stream` of `device` and returns; throws std::runtime_error if the launch fails.
// `device` must be the caller's current device, and remains it.
void heun_cuda(const HeunStep& step, int device, void* stream);

}  // namespace ctm_fast
