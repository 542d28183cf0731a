// The inner loops of the group norm: `rows` x `width` floats with one coefficient per column.
#pragma once

#include <cstdint>

namespace ctm_fast {

// A matrix of floats; consecutive rows are `stride` apart.
struct In {
  const float* data;
  std::int64_t stride;
};
struct Out {
  float* data;
  std::int64_t stride;
};
struct Size {
  std::int64_t rows, width;
};

// Conversions between 16-bit floats and floats.
void widen_bfloat_rows(const std::uint16_t* from, std::int64_t stride, Out to, Size size);
void widen_half_rows(const std::uint16_t* from, std::int64_t stride, Out to, Size size);
void narrow_bfloat_rows(In from, std::uint16_t* to, std::int64_t stride, Size size);
void narrow_half_rows(In from, std::uint16_t* to, std::int64_t stride, Size size);

// sums += x, and sums += (x - center)^2
void sum_rows(In x, float* sums, Size size);
void square_rows(In x, const float* center, float* sums, Size size);

// y = a (x - center) + b, and its SiLU
void affine_rows(In x, const float* center, const float* a, const float* b, Out y, Size size);
void silu_rows(In x, const float* center, const float* a, const float* b, Out y, Size size);

// dz = dy SiLU'(a (x - center) + b)
void silu_grad_rows(In x, In dy, const float* center, const float* a, const float* b, Out dz,
                    Size size);

// first += dz; second += dz (x - center)
void moment_rows(In x, In dz, const float* center, float* first, float* second, Size size);

// dx = a dz + p (x - center) + q
void input_grad_rows(In x, In dz, const float* center, const float* a, const float* p,
                     const float* q, Out dx, Size size);

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

}  // namespace ctm_fast
