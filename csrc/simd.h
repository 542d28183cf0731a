// What vectorised CPU code shares: function clones, 16-bit floats, exp without a library call.
#pragma once

#include <cstdint>
#include <cstring>

// GCC builds each function for three instruction sets and picks one when the module is loaded.
#if defined(__x86_64__) && defined(__ELF__) && defined(__GLIBC__) && !defined(__clang__) && \
    __GNUC__ >= 12
#define CTM_FAST_CLONES \
  __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define CTM_FAST_CLONES
#endif

// For what a clone calls: left out of line it would be code for the oldest instruction set. A
// lambda takes the attribute alone.
#if defined(__GNUC__)
#define CTM_FAST_FLAT_LAMBDA __attribute__((always_inline))
#define CTM_FAST_FLAT CTM_FAST_FLAT_LAMBDA inline
#else
#define CTM_FAST_FLAT_LAMBDA
#define CTM_FAST_FLAT inline
#endif

namespace ctm_fast {

inline std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float float_of(std::uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline float widen_bfloat(std::uint16_t value) {
  return float_of(static_cast<std::uint32_t>(value) << 16);
}

inline std::uint16_t narrow_bfloat(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool is_nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return static_cast<std::uint16_t>(is_nan ? ((bits >> 16) | 0x40u) : rounded);
}

inline float widen_half(std::uint16_t half) {
  const std::uint32_t magnitude = static_cast<std::uint32_t>(half & 0x7FFFu) << 13;
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
  // 2^112 moves the exponent to float's bias and makes half's subnormals normal.
  const std::uint32_t finite = bits_of(float_of(magnitude) * 0x1p112f);
  const std::uint32_t infinite = magnitude | 0x7F800000u;
  return float_of(sign | (magnitude < 0x0F800000u ? finite : infinite));
}

inline std::uint16_t narrow_half(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = (bits >> 16) & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu;
  // Normal halves: round the 13 lost bits to even, then move the exponent to half's bias.
  const std::uint32_t normal = (magnitude + 0x0FFFu + ((magnitude >> 13) & 1u) - 0x38000000u) >> 13;
  // Subnormal halves: adding 0.5 makes the adder round to a multiple of 2^-24.
  const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3F000000u;
  const std::uint32_t finite = magnitude < 0x38800000u ? subnormal : normal;
  const std::uint32_t large = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  return static_cast<std::uint16_t>(sign | (magnitude < 0x477FF000u ? finite : large));
}

// exp(v) for |v| <= 87, relative error below 2^-23.
inline float exp_bounded(float v) {
  // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits; std::floor and
  // std::rint are calls where the instruction set is old, and calls do not vectorise.
  const float shifted = v * 1.44269504f + 12582912.0f;
  const float n = shifted - 12582912.0f;
  const float f = (v - n * 0.693145751953125f) - n * 1.4286068202862268e-6f;
  // exp(f) - 1 - f over f^2, minimax in the relative error of exp on |f| <= ln(2) / 2.
  float q = 0x1.6a23d0p-10f;
  q = q * f + 0x1.123a20p-7f;
  q = q * f + 0x1.5558f2p-5f;
  q = q * f + 0x1.555492p-3f;
  q = q * f + 0x1.fffffcp-2f;
  const float power = float_of((bits_of(shifted) - 0x4B400000u + 127u) << 23);
  return power * ((q * f) * f + f + 1.0f);
}

// 1 / (1 + exp(-v)); beyond |v| = 87 that of 87.
inline float sigmoid(float v) {
  float bounded = -v < 87.0f ? -v : 87.0f;
  bounded = bounded > -87.0f ? bounded : -87.0f;
  const float d = 1.0f + exp_bounded(bounded);
  // A reciprocal by Newton's method from a guess within 5 %: a vector division takes four times
  // as long as these steps.
  float r = float_of(0x7EF311C0u - bits_of(d));
  r = r * (2.0f - d * r);
  r = r * (2.0f - d * r);
  return r + r * (1.0f - d * r);
}

}  // namespace ctm_fast
