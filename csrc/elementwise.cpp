// Conversions between dtypes, as PyTorch makes them: a double becomes 16 bits by way of a float.

#include "elementwise.h"

#include "simd.h"

namespace ctm_fast {

#define CTM_FAST_CONVERSION(name, From, To, expression)                              \
  CTM_FAST_CLONES static void name(const void* from, void* to, std::int64_t count) { \
    const From* __restrict__ source = static_cast<const From*>(from);                \
    To* __restrict__ target = static_cast<To*>(to);                                  \
    for (std::int64_t i = 0; i < count; ++i) {                                       \
      const From v = source[i];                                                      \
      target[i] = expression;                                                        \
    }                                                                                \
  }
CTM_FAST_CONVERSION(half_to_float, std::uint16_t, float, widen_half(v))
CTM_FAST_CONVERSION(bfloat_to_float, std::uint16_t, float, widen_bfloat(v))
CTM_FAST_CONVERSION(float_to_half, float, std::uint16_t, narrow_half(v))
CTM_FAST_CONVERSION(float_to_bfloat, float, std::uint16_t, narrow_bfloat(v))
CTM_FAST_CONVERSION(half_to_double, std::uint16_t, double, widen_half(v))
CTM_FAST_CONVERSION(bfloat_to_double, std::uint16_t, double, widen_bfloat(v))
CTM_FAST_CONVERSION(double_to_half, double, std::uint16_t, narrow_half(static_cast<float>(v)))
CTM_FAST_CONVERSION(double_to_bfloat, double, std::uint16_t, narrow_bfloat(static_cast<float>(v)))
CTM_FAST_CONVERSION(float_to_double, float, double, static_cast<double>(v))
CTM_FAST_CONVERSION(double_to_float, double, float, static_cast<float>(v))
#undef CTM_FAST_CONVERSION

Convert conversion(Dtype from, Dtype to) {
  if (from == to) return nullptr;
  if (to == Dtype::float64) {
    return from == Dtype::bfloat16  ? bfloat_to_double
           : from == Dtype::float16 ? half_to_double
                                    : float_to_double;
  }
  if (from == Dtype::float64) {
    return to == Dtype::bfloat16  ? double_to_bfloat
           : to == Dtype::float16 ? double_to_half
                                  : double_to_float;
  }
  if (to == Dtype::float32) return from == Dtype::bfloat16 ? bfloat_to_float : half_to_float;
  return to == Dtype::bfloat16 ? float_to_bfloat : float_to_half;
}

}  // namespace ctm_fast
