// The Heun updates and added noise on a CUDA device: float32 state, four elements per thread.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "heun.h"

namespace ctm_fast {
namespace {

constexpr int kPerThread = 4;
constexpr int kMaxThreads = 256;

template <class T>
struct alignas(kPerThread * sizeof(T)) Pack {
  T value[kPerThread];
};

__device__ __forceinline__ float widen(float v) { return v; }
__device__ __forceinline__ float widen(__half v) { return __half2float(v); }
__device__ __forceinline__ float widen(__nv_bfloat16 v) { return __bfloat162float(v); }

template <class T>
__device__ __forceinline__ T narrow(float v);
template <>
__device__ __forceinline__ float narrow<float>(float v) {
  return v;
}
template <>
__device__ __forceinline__ __half narrow<__half>(float v) {
  return __float2half_rn(v);
}
template <>
__device__ __forceinline__ __nv_bfloat16 narrow<__nv_bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// Four neighbours at `offset`; without Packed only the first `count` exist or are aligned.
template <bool Packed, class T>
__device__ __forceinline__ void load(const void* base, std::int64_t offset, int count,
                                     float (&to)[kPerThread]) {
  const T* from = static_cast<const T*>(base) + offset;
  if constexpr (Packed) {
    const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(from);
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) to[i] = widen(pack.value[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) to[i] = i < count ? widen(from[i]) : 0.0f;
  }
}

template <bool Packed, class T>
__device__ __forceinline__ void store(void* base, std::int64_t offset, int count,
                                      const float (&from)[kPerThread]) {
  T* to = static_cast<T*>(base) + offset;
  if constexpr (Packed) {
    Pack<T> pack;
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) pack.value[i] = narrow<T>(from[i]);
    *reinterpret_cast<Pack<T>*>(to) = pack;
  } else {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i)
      if (i < count) to[i] = narrow<T>(from[i]);
  }
}

// Block b works on piece b % pieces of sample b / pieces. Without Correct there is no f2.
template <bool Correct, bool Packed, class Network, class Out>
__global__ void __launch_bounds__(kMaxThreads) heun_kernel(HeunStep step, int pieces) {
  const std::int64_t sample = blockIdx.x / pieces;
  const std::int64_t piece = blockIdx.x % pieces;
  const std::int64_t inside = (piece * blockDim.x + threadIdx.x) * kPerThread;
  if (inside >= step.size) return;
  const std::int64_t left = step.size - inside;
  const int count = left < kPerThread ? static_cast<int>(left) : kPerThread;
  const std::int64_t offset = sample * step.size + inside;

  const float c_in = static_cast<const float*>(step.c_in)[sample];
  float x[kPerThread];
  load<Packed, float>(step.x, offset, count, x);
  if (step.active == nullptr || step.active[sample]) {
    const float a = step.a == nullptr ? 1.0f : static_cast<const float*>(step.a)[sample];
    const float b = static_cast<const float*>(step.b)[sample];
    float f1[kPerThread];
    load<Packed, Network>(step.f1, offset, count, f1);
    if constexpr (Correct) {
      const float c = static_cast<const float*>(step.c)[sample];
      float f2[kPerThread];
      load<Packed, Network>(step.f2, offset, count, f2);
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) x[i] = corrected(x[i], f1[i], f2[i], a, b, c);
    } else {
#pragma unroll
      for (int i = 0; i < kPerThread; ++i) x[i] = predicted(x[i], f1[i], a, b);
    }
  }
  if (step.next != nullptr) store<Packed, float>(step.next, offset, count, x);
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) x[i] *= c_in;
  store<Packed, Out>(step.scaled, offset, count, x);
}

void check(cudaError_t error) {
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }
}

bool aligned(const void* pointer, Dtype dtype) {
  const std::uintptr_t element = dtype == Dtype::float32 ? 4 : 2;
  return reinterpret_cast<std::uintptr_t>(pointer) % (kPerThread * element) == 0;
}

template <bool Correct, class Network, class Out>
void launch(const HeunStep& step, cudaStream_t stream) {
  const std::int64_t groups = (step.size + kPerThread - 1) / kPerThread;
  const int threads =
      static_cast<int>(std::min<std::int64_t>((groups + 31) / 32 * 32, kMaxThreads));
  const std::int64_t pieces = (groups + threads - 1) / threads;
  if (step.batch > INT32_MAX / pieces) throw std::runtime_error("more blocks than a grid can have");
  const bool packed = step.size % kPerThread == 0 && aligned(step.x, Dtype::float32) &&
                      aligned(step.f1, step.network) && aligned(step.f2, step.network) &&
                      aligned(step.next, Dtype::float32) && aligned(step.scaled, step.out);
  const unsigned blocks = static_cast<unsigned>(step.batch * pieces);
  if (packed) {
    heun_kernel<Correct, true, Network, Out>
        <<<blocks, threads, 0, stream>>>(step, static_cast<int>(pieces));
  } else {
    heun_kernel<Correct, false, Network, Out>
        <<<blocks, threads, 0, stream>>>(step, static_cast<int>(pieces));
  }
  check(cudaGetLastError());
}

template <class Network, class Out>
void choose_stage(const HeunStep& step, cudaStream_t stream) {
  if (step.f2 == nullptr) {
    launch<false, Network, Out>(step, stream);
  } else {
    launch<true, Network, Out>(step, stream);
  }
}

template <class Network>
void choose_out(const HeunStep& step, cudaStream_t stream) {
  switch (step.out) {
    case Dtype::bfloat16:
      return choose_stage<Network, __nv_bfloat16>(step, stream);
    case Dtype::float16:
      return choose_stage<Network, __half>(step, stream);
    default:
      return choose_stage<Network, float>(step, stream);
  }
}

}  // namespace

void heun_cuda(const HeunStep& step, int device, void* stream) {
  if (step.batch == 0 || step.size == 0) return;
  // For this statically linked runtime; the caller's may not share its idea of the current device.
  check(cudaSetDevice(device));
  const auto queue = static_cast<cudaStream_t>(stream);
  switch (step.network) {
    case Dtype::bfloat16:
      return choose_out<__nv_bfloat16>(step, queue);
    case Dtype::float16:
      return choose_out<__half>(step, queue);
    default:
      return choose_out<float>(step, queue);
  }
}

}  // namespace ctm_fast
