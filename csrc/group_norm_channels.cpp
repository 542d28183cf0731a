// Loops over channels. Each is a function of its own so that it can be cloned; what it does is
// another function's, because only on parameters GCC makes use of __restrict__.

#include "group_norm_channels.h"

#include <algorithm>

#include "simd.h"

namespace ctm_fast {
namespace {

using Int = std::int64_t;
using Source = const float* __restrict__;
using Target = float* __restrict__;
using Totals = double* __restrict__;

template <float (*widen)(std::uint16_t)>
CTM_FAST_FLAT void widen_all(const void* from, Int offset, Target to, Int count) {
  const auto* __restrict__ halves = static_cast<const std::uint16_t*>(from) + offset;
  for (Int i = 0; i < count; ++i) to[i] = widen(halves[i]);
}

// kExact: 1 / pixels is a power of two, and the product is the quotient.
template <bool kExact>
CTM_FAST_FLAT void merge(Totals mean, Totals squares, double seen, double pixels, Target center,
                         Target first, Target second, Int count) {
  // Chan, Golub and LeVeque 1979, Eqs. 2.1a and 2.1b.
  const double share = pixels / (seen + pixels), between = seen * share, inverse = 1.0 / pixels;
  for (Int c = 0; c < count; ++c) {
    const double shift = kExact ? first[c] * inverse : first[c] / pixels;
    const double delta = center[c] + shift - mean[c];
    const double inner = second[c] - first[c] * shift;
    mean[c] += delta * share;
    squares[c] += (inner > 0.0 ? inner : 0.0) + delta * delta * between;
    center[c] = static_cast<float>(mean[c]);
    first[c] = second[c] = 0.0f;
  }
}

CTM_FAST_FLAT void factor_row(Source weight, Source bias, Source scale, Source shift, Source pre,
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

CTM_FAST_FLAT void factor_grad_row(Source weight, Source bias, Source scale,
                                   const double* __restrict__ rstd, Totals first, Totals second,
                                   Target dweight, Target dbias, Target dscale, Target dshift,
                                   Int count) {
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

CTM_FAST_FLAT void move(Target sums, Totals total, Int count) {
  for (Int c = 0; c < count; ++c) {
    total[c] += sums[c];
    sums[c] = 0.0f;
  }
}

CTM_FAST_FLAT void add_row(Source values, Totals total, Int count) {
  for (Int c = 0; c < count; ++c) total[c] += values[c];
}

}  // namespace

CTM_FAST_CLONES const float* read_factor(const Factor& factor, Int offset, float* buffer,
                                         Int count) {
  if (factor.data == nullptr) {
    std::fill_n(buffer, count, 0.0f);
    return buffer;
  }
  if (factor.dtype == Dtype::float32) return static_cast<const float*>(factor.data) + offset;
  if (factor.dtype == Dtype::bfloat16)
    widen_all<widen_bfloat>(factor.data, offset, buffer, count);
  else
    widen_all<widen_half>(factor.data, offset, buffer, count);
  return buffer;
}

CTM_FAST_CLONES void merge_moments(const Moments& seen, Int pixels, float* center, float* sums,
                                   float* squares, Int count) {
  const auto before = static_cast<double>(seen.pixels), now = static_cast<double>(pixels);
  if ((pixels & (pixels - 1)) == 0)
    merge<true>(seen.mean, seen.squares, before, now, center, sums, squares, count);
  else
    merge<false>(seen.mean, seen.squares, before, now, center, sums, squares, count);
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

CTM_FAST_CLONES void move_sums(float* sums, double* total, Int count) { move(sums, total, count); }

CTM_FAST_CLONES void sum_rows(const float* values, Int rows, Int count, double* total,
                              float* sums) {
  std::fill_n(total, count, 0.0);
  for (Int r = 0; r < rows; ++r) add_row(values + r * count, total, count);
  for (Int c = 0; c < count; ++c) sums[c] = static_cast<float>(total[c]);
}

}  // namespace ctm_fast
