// Group norm with a bias before it, a scale and shift after it, and SiLU; the definition is
// kernels/group_norm.py.
#pragma once

#include <cstdint>

#include "heun.h"  // Dtype

namespace ctm_fast {

// (batch, channels) float32, bfloat16 or float16; rows are `stride` elements apart. data is
// nullptr where the factor is left out.
struct Factor {
  const void* data;
  std::int64_t stride;
  Dtype dtype;
};

struct GroupNorm {
  const void* x;  // (batch, pixels, channels) if channels_last, else (batch, channels, pixels)
  Factor weight, bias;  // stride 0: one row for all samples
  Factor scale, shift, pre;
  std::int64_t batch, channels, pixels, groups;
  Dtype dtype;  // of x, y and their gradients
  bool channels_last, act;
};

struct Gradients {
  void* x;                     // like GroupNorm::x
  float *weight, *bias;        // (channels,)
  float *scale, *shift, *pre;  // (batch, channels), or nullptr where not wanted
};

// mean and rstd are (batch, groups).
void group_norm_cpu(const GroupNorm& op, double eps, void* y, float* mean, float* rstd,
                    int threads);
void group_norm_backward_cpu(const GroupNorm& op, const void* dy, const float* mean,
                             const float* rstd, const Gradients& d, int threads);

}  // namespace ctm_fast
