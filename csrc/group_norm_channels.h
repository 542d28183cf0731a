// Group norm: what is computed for every channel, in double, between the passes over the images.
#pragma once

#include <cstdint>

#include "group_norm.h"

namespace ctm_fast {

// `count` channels of a factor from `offset` on, as floats; zeros if it is left out.
const float* read_factor(const Factor& factor, std::int64_t offset, float* buffer,
                         std::int64_t count);

// Mean and sum of squared deviations of `pixels` values of every channel.
struct Moments {
  double *mean, *squares;
  std::int64_t pixels;
};

// Adds values given by the sums of x - center and of its square, and zeroes these. The center
// becomes the mean.
void merge_moments(const Moments& seen, std::int64_t pixels, float* center, float* sums,
                   float* squares, std::int64_t count);

// The same factors for `count` channels of a part; absent ones are zeros.
struct Factors {
  const float *weight, *bias, *scale, *shift, *pre;
};

// x - center is the normalised x over rstd, and a (x - center) + b is what SiLU is applied to.
void set_coefficients(const Factors& f, const double* mean, const double* rstd, float* center,
                      float* a, float* b, std::int64_t count);

// Gradients of the factors from the moments of dz. The moments become the sums of the gradient of
// the normalised x, and of that times the normalised x.
struct FactorGradients {
  float *weight, *bias, *scale, *shift;
};
void set_factor_gradients(const Factors& f, const double* rstd, double* first, double* second,
                          const FactorGradients& d, std::int64_t count);

// total += sums; sums = 0
void move_sums(float* sums, double* total, std::int64_t count);

// sums = (rows, count) floats added over the rows
void sum_rows(const float* values, std::int64_t rows, std::int64_t count, double* total,
              float* sums);

}  // namespace ctm_fast
