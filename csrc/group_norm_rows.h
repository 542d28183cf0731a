// The inner loops of the group norm, on one tile of the images at a time.
#pragma once

#include <cstdint>

#include "heun.h"  // Dtype

namespace ctm_fast {

// `rows` x `width` elements, consecutive rows `stride` elements apart, in every image alike.
// Coefficients and sums are float32, one per row if `per_row`, else one per column.
struct Tile {
  std::int64_t rows, width, stride;
  Dtype dtype;
  bool per_row, act;
};

// a (x - center) + b is what SiLU is applied to, if `act`.
struct Affine {
  const float *center, *a, *b;
};

// Where dz is added, dz (x - center), and x - center; dz is the gradient of a (x - center) + b. The
// last may be nullptr.
struct GradMoments {
  float *first, *second, *deviation;
};

// What dx = scale (a dz + p (x - center) + q + dsummed) is made of; dsummed may be nullptr.
struct InputGradient {
  const float *p, *q;
  const void* dsummed;
  float scale;
};

struct Kernels {
  // to = scale (x + residual), or x if residual is nullptr; rows of `to` are to_stride apart
  void (*join)(const Tile& tile, const void* x, const void* residual, float scale, void* to,
               std::int64_t to_stride);
  // sums += x - center; squares += (x - center)^2
  void (*moments)(const Tile& tile, const void* x, const float* center, float* sums,
                  float* squares);
  void (*normalise)(const Tile& tile, const void* x, const Affine& f, void* y);
  void (*grad_moments)(const Tile& tile, const void* x, const void* dy, const Affine& f,
                       const GradMoments& sums);
  void (*input_grad)(const Tile& tile, const void* x, const void* dy, const Affine& f,
                     const InputGradient& g, void* dx);
};

extern const Kernels kPortable;  // for every machine and every tile
// For AVX-512, and for AVX-512 with bfloat16 conversions, and for tiles of this kind; nullptr if
// this build or CPU has none.
const Kernels* wide_kernels(Dtype dtype, bool per_row, bool act, bool bfloat16);

}  // namespace ctm_fast
