// Vectors of 16 floats, for group_norm_wide.cpp alone, which includes this after all else.
#pragma once

#include <immintrin.h>

#include <cstdint>

// Down to the end of the file that includes this, so that templates are instantiated under it, and
// after all includes: an inline function of theirs compiled here might be the one others call.
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,prfchw")
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // false: GCC bug 105593

namespace ctm_fast {
namespace {

using Int = std::int64_t;
using Vector = __m512;
using Mask = __mmask16;

constexpr Int kLanes = 16;
constexpr Mask kAll = 0xFFFF;

inline Vector all(float value) { return _mm512_set1_ps(value); }
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

// How values lie in memory. What a mask leaves out is neither read (it is zero) nor written.

struct Float32 {
  using Type = float;
  static Vector load(const float* from, Mask mask) { return _mm512_maskz_loadu_ps(mask, from); }
  static void store(float* to, Mask mask, Vector v) { _mm512_mask_storeu_ps(to, mask, v); }
};

struct Float16 {
  using Type = std::uint16_t;
  static Vector load(const Type* from, Mask mask) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from));
  }
  static void store(Type* to, Mask mask, Vector v) {
    _mm256_mask_storeu_epi16(to, mask,
                             _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

// Rounded by an instruction of its own, which takes what is below 2^-126 for zero, or by integer
// arithmetic where there is none.
template <bool kInstruction>
struct Bfloat16 {
  using Type = std::uint16_t;
  static Vector load(const Type* from, Mask mask) {
    const __m512i bits = _mm512_castsi256_si512(_mm256_maskz_loadu_epi16(mask, from));
    // Every value to the upper half of its lane: one instruction, not an extension and a shift.
    const __m512i upper =
        _mm512_setr_epi32(0x00000, 0x10000, 0x20000, 0x30000, 0x40000, 0x50000, 0x60000, 0x70000,
                          0x80000, 0x90000, 0xA0000, 0xB0000, 0xC0000, 0xD0000, 0xE0000, 0xF0000);
    return _mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(0xAAAAAAAA, upper, bits));
  }
  static void store(Type* to, Mask mask, Vector v) {
    if constexpr (kInstruction) {
      _mm256_mask_storeu_epi16(to, mask, reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
    } else {
      const __m512i bits = _mm512_castps_si512(v);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
      const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
      const Mask is_nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
      const __m512i rounded = _mm512_mask_mov_epi32(_mm512_add_epi32(bits, half), is_nan,
                                                    _mm512_set1_epi32(0x7FC00000));
      _mm256_mask_storeu_epi16(to, mask, _mm512_cvtepi32_epi16(_mm512_srli_epi32(rounded, 16)));
    }
  }
};

constexpr int kToInteger = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// 1 + exp(-v), relative error below 2^-22; beyond |v| = 87 that of 87.
inline Vector one_plus_exp(Vector v) {
  constexpr int kSmaller = 0b0010;  // of two absolute values, with the first one's sign
  const Vector w = _mm512_range_ps(v, all(87.0f), kSmaller);
  const Vector n = _mm512_roundscale_ps(w * all(-1.44269504f), kToInteger);
  // exp(-f), the polynomial of exp_bounded in simd.h.
  const Vector f = fma(n, all(0.693147181f), w);
  Vector p = fma(all(0x1.6a23d0p-10f), f, all(-0x1.123a20p-7f));
  p = fma(p, f, all(0x1.5558f2p-5f));
  p = fma(p, f, all(-0x1.555492p-3f));
  p = fma(p, f, all(0x1.fffffcp-2f));
  p = fma(p, f, all(-1.0f));
  return _mm512_scalef_ps(fma(p, f, all(1.0f)), n) + all(1.0f);
}

// The same for results of 16 bits, with a relative error below 2^-17.
inline Vector one_plus_exp_roughly(Vector v) {
  const Vector t = _mm512_min_ps(v * all(-1.44269504f), all(126.0f));
  const Vector f = _mm512_reduce_ps(t, kToInteger);  // t minus the nearest integer
  // 2^f, minimax in the relative error on |f| <= 1/2.
  Vector p = fma(all(0x1.3a02ccp-7f), f, all(0x1.c9fc46p-5f));
  p = fma(p, f, all(0x1.ec0378p-3f));
  p = fma(p, f, all(0x1.62e12cp-1f));
  return _mm512_scalef_ps(fma(p, f, all(1.0f)), t - f) + all(1.0f);
}

// As accurate as values of type T can be.
template <class T>
inline Vector one_plus_exp_for(Vector v) {
  return sizeof(typename T::Type) == 2 ? one_plus_exp_roughly(v) : one_plus_exp(v);
}

// dy times the derivative of SiLU at v.
template <class T>
inline Vector silu_grad(Vector v, Vector dy) {
  const Vector s = all(1.0f) / one_plus_exp_for<T>(v);
  return dy * s * fma(v, all(1.0f) - s, all(1.0f));
}

}  // namespace
}  // namespace ctm_fast
