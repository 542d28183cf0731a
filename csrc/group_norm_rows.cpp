// The inner loops of the group norm. Each is a function of its own so that it can be cloned; what
// it does to one row is a function too, because only on parameters GCC makes use of __restrict__.

#include "group_norm_rows.h"

#include "simd.h"

namespace ctm_fast {
namespace {

using Int = std::int64_t;
using Source = const float* __restrict__;
using Target = float* __restrict__;

template <float (*widen)(std::uint16_t)>
inline void widen_row(const std::uint16_t* __restrict__ from, Target to, Int width) {
  for (Int i = 0; i < width; ++i) to[i] = widen(from[i]);
}

template <std::uint16_t (*narrow)(float)>
inline void narrow_row(Source from, std::uint16_t* __restrict__ to, Int width) {
  for (Int i = 0; i < width; ++i) to[i] = narrow(from[i]);
}

inline void sum_four(Source x0, Source x1, Source x2, Source x3, Target sums, Int width) {
  for (Int i = 0; i < width; ++i) sums[i] += (x0[i] + x1[i]) + (x2[i] + x3[i]);
}

inline void sum_one(Source x, Target sums, Int width) {
  for (Int i = 0; i < width; ++i) sums[i] += x[i];
}

inline void square_four(Source x0, Source x1, Source x2, Source x3, Source center, Target sums,
                        Int width) {
  for (Int i = 0; i < width; ++i) {
    const float d0 = x0[i] - center[i], d1 = x1[i] - center[i];
    const float d2 = x2[i] - center[i], d3 = x3[i] - center[i];
    sums[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
  }
}

inline void square_one(Source x, Source center, Target sums, Int width) {
  for (Int i = 0; i < width; ++i) {
    const float d = x[i] - center[i];
    sums[i] += d * d;
  }
}

inline void affine_row(Source x, Source center, Source a, Source b, Target y, Int width) {
  for (Int i = 0; i < width; ++i) y[i] = (x[i] - center[i]) * a[i] + b[i];
}

inline void silu_row(Source x, Source center, Source a, Source b, Target y, Int width) {
  for (Int i = 0; i < width; ++i) {
    const float v = (x[i] - center[i]) * a[i] + b[i];
    y[i] = v * sigmoid(v);
  }
}

inline void silu_grad_row(Source x, Source dy, Source center, Source a, Source b, Target dz,
                          Int width) {
  for (Int i = 0; i < width; ++i) {
    const float v = (x[i] - center[i]) * a[i] + b[i], s = sigmoid(v);
    dz[i] = dy[i] * (s + v * (s * (1.0f - s)));
  }
}

inline void moment_two(Source x0, Source x1, Source z0, Source z1, Source center, Target first,
                       Target second, Int width) {
  for (Int i = 0; i < width; ++i) {
    first[i] += z0[i] + z1[i];
    second[i] += z0[i] * (x0[i] - center[i]) + z1[i] * (x1[i] - center[i]);
  }
}

inline void moment_one(Source x, Source z, Source center, Target first, Target second, Int width) {
  for (Int i = 0; i < width; ++i) {
    first[i] += z[i];
    second[i] += z[i] * (x[i] - center[i]);
  }
}

inline void input_grad_row(Source x, Source dz, Source center, Source a, Source p, Source q,
                           Target dx, Int width) {
  for (Int i = 0; i < width; ++i) dx[i] = dz[i] * a[i] + ((x[i] - center[i]) * p[i] + q[i]);
}

inline void factor_row(Source weight, Source bias, Source scale, Source shift, Source pre,
                       const double* __restrict__ mean, const double* __restrict__ rstd,
                       Target center, Target a, Target b, Int count) {
  for (Int c = 0; c < count; ++c) {
    const double middle = mean[c] - pre[c], gain = 1.0 + scale[c];
    const float near = static_cast<float>(middle);
    center[c] = near;
    a[c] = static_cast<float>(rstd[c] * weight[c] * gain);
    // What rounding took from the center matters where the mean is large.
    b[c] = static_cast<float>(bias[c] * gain + shift[c] + (near - middle) * a[c]);
  }
}

inline void factor_grad_row(Source weight, Source bias, Source scale,
                            const double* __restrict__ rstd, double* __restrict__ first,
                            double* __restrict__ second, Target dweight, Target dbias,
                            Target dscale, Target dshift, Int count) {
  for (Int c = 0; c < count; ++c) {
    const double sum = first[c], moment = second[c] * rstd[c], gain = 1.0 + scale[c];
    dweight[c] = static_cast<float>(gain * moment);
    dbias[c] = static_cast<float>(gain * sum);
    dshift[c] = static_cast<float>(sum);
    dscale[c] = static_cast<float>(weight[c] * moment + bias[c] * sum);
    first[c] = gain * weight[c] * sum;
    second[c] = gain * weight[c] * moment;
  }
}

}  // namespace

CTM_FAST_CLONES void widen_bfloat_rows(const std::uint16_t* from, Int stride, Out to, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    widen_row<widen_bfloat>(from + r * stride, to.data + r * to.stride, size.width);
}

CTM_FAST_CLONES void widen_half_rows(const std::uint16_t* from, Int stride, Out to, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    widen_row<widen_half>(from + r * stride, to.data + r * to.stride, size.width);
}

CTM_FAST_CLONES void narrow_bfloat_rows(In from, std::uint16_t* to, Int stride, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    narrow_row<narrow_bfloat>(from.data + r * from.stride, to + r * stride, size.width);
}

CTM_FAST_CLONES void narrow_half_rows(In from, std::uint16_t* to, Int stride, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    narrow_row<narrow_half>(from.data + r * from.stride, to + r * stride, size.width);
}

CTM_FAST_CLONES void sum_rows(In x, float* sums, Size size) {
  Int r = 0;
  for (; r + 4 <= size.rows; r += 4) {
    const float *x0 = x.data + r * x.stride, *x2 = x0 + 2 * x.stride;
    sum_four(x0, x0 + x.stride, x2, x2 + x.stride, sums, size.width);
  }
  for (; r < size.rows; ++r) sum_one(x.data + r * x.stride, sums, size.width);
}

CTM_FAST_CLONES void square_rows(In x, const float* center, float* sums, Size size) {
  Int r = 0;
  for (; r + 4 <= size.rows; r += 4) {
    const float *x0 = x.data + r * x.stride, *x2 = x0 + 2 * x.stride;
    square_four(x0, x0 + x.stride, x2, x2 + x.stride, center, sums, size.width);
  }
  for (; r < size.rows; ++r) square_one(x.data + r * x.stride, center, sums, size.width);
}

CTM_FAST_CLONES void affine_rows(In x, const float* center, const float* a, const float* b, Out y,
                                 Size size) {
  for (Int r = 0; r < size.rows; ++r)
    affine_row(x.data + r * x.stride, center, a, b, y.data + r * y.stride, size.width);
}

CTM_FAST_CLONES void silu_rows(In x, const float* center, const float* a, const float* b, Out y,
                               Size size) {
  for (Int r = 0; r < size.rows; ++r)
    silu_row(x.data + r * x.stride, center, a, b, y.data + r * y.stride, size.width);
}

CTM_FAST_CLONES void silu_grad_rows(In x, In dy, const float* center, const float* a,
                                    const float* b, Out dz, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    silu_grad_row(x.data + r * x.stride, dy.data + r * dy.stride, center, a, b,
                  dz.data + r * dz.stride, size.width);
}

CTM_FAST_CLONES void moment_rows(In x, In dz, const float* center, float* first, float* second,
                                 Size size) {
  Int r = 0;
  for (; r + 2 <= size.rows; r += 2) {
    const float *x0 = x.data + r * x.stride, *z0 = dz.data + r * dz.stride;
    moment_two(x0, x0 + x.stride, z0, z0 + dz.stride, center, first, second, size.width);
  }
  for (; r < size.rows; ++r)
    moment_one(x.data + r * x.stride, dz.data + r * dz.stride, center, first, second, size.width);
}

CTM_FAST_CLONES void input_grad_rows(In x, In dz, const float* center, const float* a,
                                     const float* p, const float* q, Out dx, Size size) {
  for (Int r = 0; r < size.rows; ++r)
    input_grad_row(x.data + r * x.stride, dz.data + r * dz.stride, center, a, p, q,
                   dx.data + r * dx.stride, size.width);
}

CTM_FAST_CLONES void set_coefficients(const Factors& f, const double* mean, const double* rstd,
                                      float* center, float* a, float* b, Int count) {
  factor_row(f.weight, f.bias, f.scale, f.shift, f.pre, mean, rstd, center, a, b, count);
}

CTM_FAST_CLONES void set_factor_gradients(const Factors& f, const double* rstd, double* first,
                                          double* second, const FactorGradients& d, Int count) {
  factor_grad_row(f.weight, f.bias, f.scale, rstd, first, second, d.weight, d.bias, d.scale,
                  d.shift, count);
}

}  // namespace ctm_fast
