// The inner loops of the group norm. Each is a function of its own so that it can be cloned.

#include "group_norm_rows.h"

#include "simd.h"

namespace ctm_fast {

// clang-format off
#define CTM_FAST_WIDEN(name, expression)                                                        \
  CTM_FAST_CLONES void name(const std::uint16_t* from, std::int64_t stride, Out to, Size size) { \
    for (std::int64_t r = 0; r < size.rows; ++r) {                                              \
      const std::uint16_t* __restrict__ source = from + r * stride;                             \
      float* __restrict__ target = to.data + r * to.stride;                                     \
      for (std::int64_t i = 0; i < size.width; ++i) target[i] = expression(source[i]);          \
    }                                                                                           \
  }
#define CTM_FAST_NARROW(name, expression)                                                       \
  CTM_FAST_CLONES void name(In from, std::uint16_t* to, std::int64_t stride, Size size) {       \
    for (std::int64_t r = 0; r < size.rows; ++r) {                                              \
      const float* __restrict__ source = from.data + r * from.stride;                           \
      std::uint16_t* __restrict__ target = to + r * stride;                                     \
      for (std::int64_t i = 0; i < size.width; ++i) target[i] = expression(source[i]);          \
    }                                                                                           \
  }
// clang-format on

CTM_FAST_WIDEN(widen_bfloat_rows, widen_bfloat)
CTM_FAST_WIDEN(widen_half_rows, widen_half)
CTM_FAST_NARROW(narrow_bfloat_rows, narrow_bfloat)
CTM_FAST_NARROW(narrow_half_rows, narrow_half)

CTM_FAST_CLONES void sum_rows(In x, float* sums, Size size) {
  float* __restrict__ s = sums;
  std::int64_t r = 0;
  for (; r + 4 <= size.rows; r += 4) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    const float* __restrict__ x1 = x0 + x.stride;
    const float* __restrict__ x2 = x1 + x.stride;
    const float* __restrict__ x3 = x2 + x.stride;
    for (std::int64_t i = 0; i < size.width; ++i) s[i] += (x0[i] + x1[i]) + (x2[i] + x3[i]);
  }
  for (; r < size.rows; ++r) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    for (std::int64_t i = 0; i < size.width; ++i) s[i] += x0[i];
  }
}

CTM_FAST_CLONES void square_rows(In x, const float* center, float* sums, Size size) {
  const float* __restrict__ c = center;
  float* __restrict__ s = sums;
  std::int64_t r = 0;
  for (; r + 4 <= size.rows; r += 4) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    const float* __restrict__ x1 = x0 + x.stride;
    const float* __restrict__ x2 = x1 + x.stride;
    const float* __restrict__ x3 = x2 + x.stride;
    for (std::int64_t i = 0; i < size.width; ++i) {
      const float d0 = x0[i] - c[i], d1 = x1[i] - c[i], d2 = x2[i] - c[i], d3 = x3[i] - c[i];
      s[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
    }
  }
  for (; r < size.rows; ++r) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    for (std::int64_t i = 0; i < size.width; ++i) s[i] += (x0[i] - c[i]) * (x0[i] - c[i]);
  }
}

CTM_FAST_CLONES void affine_rows(In x, const float* a, const float* b, Out y, Size size) {
  const float *__restrict__ a_ = a, *__restrict__ b_ = b;
  for (std::int64_t r = 0; r < size.rows; ++r) {
    const float* __restrict__ source = x.data + r * x.stride;
    float* __restrict__ target = y.data + r * y.stride;
    for (std::int64_t i = 0; i < size.width; ++i) target[i] = source[i] * a_[i] + b_[i];
  }
}

CTM_FAST_CLONES void silu_rows(In x, const float* a, const float* b, Out y, Size size) {
  const float *__restrict__ a_ = a, *__restrict__ b_ = b;
  for (std::int64_t r = 0; r < size.rows; ++r) {
    const float* __restrict__ source = x.data + r * x.stride;
    float* __restrict__ target = y.data + r * y.stride;
    for (std::int64_t i = 0; i < size.width; ++i) {
      const float v = source[i] * a_[i] + b_[i];
      target[i] = v * sigmoid(v);
    }
  }
}

CTM_FAST_CLONES void silu_grad_rows(In x, In dy, const float* a, const float* b, Out dz,
                                    Size size) {
  const float *__restrict__ a_ = a, *__restrict__ b_ = b;
  for (std::int64_t r = 0; r < size.rows; ++r) {
    const float* __restrict__ source = x.data + r * x.stride;
    const float* __restrict__ grad = dy.data + r * dy.stride;
    float* __restrict__ target = dz.data + r * dz.stride;
    for (std::int64_t i = 0; i < size.width; ++i) {
      const float v = source[i] * a_[i] + b_[i];
      const float s = sigmoid(v);
      target[i] = grad[i] * (s + v * (s * (1.0f - s)));
    }
  }
}

CTM_FAST_CLONES void moment_rows(In x, In dz, const float* center, float* first, float* second,
                                 Size size) {
  const float* __restrict__ c = center;
  float *__restrict__ s = first, *__restrict__ t = second;
  std::int64_t r = 0;
  for (; r + 2 <= size.rows; r += 2) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    const float* __restrict__ x1 = x0 + x.stride;
    const float* __restrict__ z0 = dz.data + r * dz.stride;
    const float* __restrict__ z1 = z0 + dz.stride;
    for (std::int64_t i = 0; i < size.width; ++i) {
      s[i] += z0[i] + z1[i];
      t[i] += z0[i] * (x0[i] - c[i]) + z1[i] * (x1[i] - c[i]);
    }
  }
  for (; r < size.rows; ++r) {
    const float* __restrict__ x0 = x.data + r * x.stride;
    const float* __restrict__ z0 = dz.data + r * dz.stride;
    for (std::int64_t i = 0; i < size.width; ++i) {
      s[i] += z0[i];
      t[i] += z0[i] * (x0[i] - c[i]);
    }
  }
}

CTM_FAST_CLONES void input_grad_rows(In x, In dz, const float* center, const float* a,
                                     const float* p, const float* q, Out dx, Size size) {
  const float *__restrict__ c = center, *__restrict__ a_ = a;
  const float *__restrict__ p_ = p, *__restrict__ q_ = q;
  for (std::int64_t r = 0; r < size.rows; ++r) {
    const float* __restrict__ source = x.data + r * x.stride;
    const float* __restrict__ grad = dz.data + r * dz.stride;
    float* __restrict__ target = dx.data + r * dx.stride;
    for (std::int64_t i = 0; i < size.width; ++i)
      target[i] = grad[i] * a_[i] + ((source[i] - c[i]) * p_[i] + q_[i]);
  }
}

CTM_FAST_CLONES void set_coefficients(const Factors& f, const double* mean, const double* rstd,
                                      float* center, float* a, float* b, std::int64_t count) {
  const float *__restrict__ weight = f.weight, *__restrict__ bias = f.bias;
  const float *__restrict__ scale = f.scale, *__restrict__ shift = f.shift;
  const float* __restrict__ pre = f.pre;
  const double *__restrict__ mean_ = mean, *__restrict__ rstd_ = rstd;
  float *__restrict__ center_ = center, *__restrict__ a_ = a, *__restrict__ b_ = b;
  for (std::int64_t c = 0; c < count; ++c) {
    const double middle = mean_[c] - pre[c], gain = 1.0 + scale[c];
    const float slope = static_cast<float>(rstd_[c] * weight[c] * gain);
    center_[c] = static_cast<float>(middle);
    a_[c] = slope;
    b_[c] = static_cast<float>(bias[c] * gain + shift[c] - middle * slope);
  }
}

CTM_FAST_CLONES void set_factor_gradients(const Factors& f, const double* rstd, double* first,
                                          double* second, const FactorGradients& d,
                                          std::int64_t count) {
  const float *__restrict__ weight = f.weight, *__restrict__ bias = f.bias;
  const float *__restrict__ scale = f.scale;
  const double* __restrict__ rstd_ = rstd;
  double *__restrict__ first_ = first, *__restrict__ second_ = second;
  float *__restrict__ dweight = d.weight, *__restrict__ dbias = d.bias;
  float *__restrict__ dscale = d.scale, *__restrict__ dshift = d.shift;
  for (std::int64_t c = 0; c < count; ++c) {
    const double sum = first_[c], moment = second_[c] * rstd_[c], gain = 1.0 + scale[c];
    dweight[c] = static_cast<float>(gain * moment);
    dbias[c] = static_cast<float>(gain * sum);
    dshift[c] = static_cast<float>(sum);
    dscale[c] = static_cast<float>(weight[c] * moment + bias[c] * sum);
    first_[c] = gain * weight[c] * sum;
    second_[c] = gain * weight[c] * moment;
  }
}

}  // namespace ctm_fast
