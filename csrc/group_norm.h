// Group norm with a residual sum and a bias before it, a scale and shift after it, and SiLU; the
// definition is kernels/group_norm.py.
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
  // (batch, pixels, channels) if channels_last, else (batch, channels, pixels)
  const void* x;
  Factor weight, bias;  // stride 0: one row for all samples
  Factor scale, shift, pre;
  std::int64_t batch, channels, pixels, groups;
  Dtype dtype;  // of x and of all that has its shape
  bool channels_last, act;
  float residual_scale;
};

// joined, of all `channels`: the first `head` of them are scale (x + residual), or x itself if
// residual is nullptr, and the others are tail's.
struct Join {
  const void *x, *residual, *tail;
  void* joined;
  std::int64_t batch, head, channels, pixels;
  Dtype dtype;
  bool channels_last;
  float scale;
};

// If join.joined is not nullptr it is written, and normalised in place of x. mean and rstd are
// (batch, groups), or nullptr where they are not wanted.
struct Results {
  Join join;
  void* y;
  float *mean, *rstd;
};

struct Gradients {
  void* x;                     // like GroupNorm::x: residual_scale (that of the norm + dsummed)
  float *weight, *bias;        // (channels,)
  float *scale, *shift, *pre;  // (batch, channels), or nullptr where not wanted
};

void join_cpu(const Join& join, int threads);

void group_norm_cpu(const GroupNorm& op, double eps, const Results& results, int threads);

// op.x is what was normalised. dsummed may be nullptr.
void group_norm_backward_cpu(const GroupNorm& op, const void* dy, const void* dsummed,
                             const float* mean, const float* rstd, const Gradients& d, int threads);

// Chooses among "portable", "avx512" and "avx512_bf16"; false if this build or CPU has it not. The
// last that it has is in use until then.
bool group_norm_use(const char* name);

}  // namespace ctm_fast
