// The inner loops of the group norm for AVX-512: 16-bit floats are converted in registers and the
// ends of rows masked.

#include "group_norm_rows.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12

#include <type_traits>

namespace ctm_fast {
namespace {

struct Table {
  Kernels of[3][2][2];  // dtype, per_row, act
};
extern const Table kTable, kBfloat16Table;

}  // namespace

const Kernels* wide_kernels(Dtype dtype, bool per_row, bool act, bool bfloat16) {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("x86-64-v4")) return nullptr;
  if (bfloat16 && !__builtin_cpu_supports("avx512bf16")) return nullptr;
  return &(bfloat16 ? kBfloat16Table : kTable).of[static_cast<int>(dtype)][per_row][act];
}

}  // namespace ctm_fast

#include "group_norm_avx512.h"

namespace ctm_fast {
namespace {

constexpr Int kAhead = 4096;  // bytes

// visit(column, mask) for every 16 columns
template <class Visit>
inline void columns(Int width, Visit visit) {
  Int i = 0;
  for (; i + kLanes <= width; i += kLanes) visit(i, kAll);
  if (i < width) visit(i, static_cast<Mask>((1u << (width - i)) - 1u));
}

// visit(column, which of two accumulators, mask), likewise
template <class Visit>
inline void pairs_of_columns(Int width, Visit visit) {
  Int i = 0;
  for (; i + 2 * kLanes <= width; i += 2 * kLanes)
    for (int k = 0; k < 2; ++k) visit(i + k * kLanes, k, kAll);
  columns(width - i, [&](Int j, Mask mask) { visit(i + j, 0, mask); });
}

// visit(first row, how many) for every four rows and then for single ones
template <class Visit>
inline void fours_of_rows(Int rows, Visit visit) {
  Int r = 0;
  for (; r + 4 <= rows; r += 4) visit(r, std::integral_constant<int, 4>());
  for (; r < rows; ++r) visit(r, std::integral_constant<int, 1>());
}

// Sums of two values in two accumulators each: a single one would be a long chain of roundings.
struct Sums {
  Vector first[2] = {}, second[2] = {};

  void add(int k, Vector a, Vector b, Vector factor) {
    first[k % 2] += a;
    second[k % 2] = fma(b, factor, second[k % 2]);
  }
};

inline Vector total(const Vector* v) { return v[0] + v[1]; }

inline void add_to_columns(float* sums, Mask mask, Vector v) {
  Float32::store(sums, mask, Float32::load(sums, mask) + v);
}

template <class T, bool kPerRow, bool kAct>
struct Wide {
  using Type = typename T::Type;

  static const Type* row(const void* images, const Tile& tile, Int r) {
    return static_cast<const Type*>(images) + r * tile.stride;
  }
  static Type* row(void* images, const Tile& tile, Int r) {
    return static_cast<Type*>(images) + r * tile.stride;
  }
  // Values of an image are asked for early: the processor's own prefetching ends with a page.
  static Vector read(const Type* from, Mask mask) {
    __builtin_prefetch(reinterpret_cast<const char*>(from) + kAhead, 0);
    return T::load(from, mask);
  }
  static void write(Type* to, Mask mask, Vector v) {
    __builtin_prefetch(reinterpret_cast<const char*>(to) + kAhead, 1);
    T::store(to, mask, v);
  }
  static Vector coefficient(const float* values, Int r, Int i, Mask mask) {
    return kPerRow ? all(values[r]) : Float32::load(values + i, mask);
  }

  static void join(const Tile& tile, const void* x, const void* residual, float scale, void* joined,
                   Int to_stride) {
    Type* to = static_cast<Type*>(joined);
    for (Int r = 0; r < tile.rows; ++r, to += to_stride) {
      const Type* a = row(x, tile, r);
      if (residual == nullptr) {
        copy(a, to, tile.width * sizeof(Type));
        continue;
      }
      const Type* b = row(residual, tile, r);
      columns(tile.width, [&](Int i, Mask m) {
        write(to + i, m, (read(a + i, m) + read(b + i, m)) * all(scale));
      });
    }
  }

  static void copy(const void* from, void* to, Int bytes) {
    const char* a = static_cast<const char*>(from);
    char* b = static_cast<char*>(to);
    for (; bytes > 0; bytes -= 64, a += 64, b += 64) {
      const __mmask64 m = bytes < 64 ? (std::uint64_t{1} << bytes) - 1 : ~std::uint64_t{0};
      __builtin_prefetch(a + kAhead, 0);
      __builtin_prefetch(b + kAhead, 1);
      _mm512_mask_storeu_epi8(b, m, _mm512_maskz_loadu_epi8(m, a));
    }
  }

  static void moments(const Tile& tile, const void* x, const float* center, float* sums,
                      float* squares) {
    const auto add = [](Sums& to, int k, Mask m, const Type* from, Vector middle) {
      const Vector d = _mm512_maskz_sub_ps(m, read(from, m), middle);
      to.add(k, d, d, d);
    };
    if constexpr (kPerRow) {
      for (Int r = 0; r < tile.rows; ++r) {
        const Type* from = row(x, tile, r);
        const Vector middle = all(center[r]);
        Sums to;
        pairs_of_columns(tile.width,
                         [&](Int i, int k, Mask m) { add(to, k, m, from + i, middle); });
        sums[r] += _mm512_reduce_add_ps(total(to.first));
        squares[r] += _mm512_reduce_add_ps(total(to.second));
      }
    } else {
      fours_of_rows(tile.rows, [&](Int r, auto count) {
        const Type* from = row(x, tile, r);
        columns(tile.width, [&](Int i, Mask m) {
          const Vector middle = Float32::load(center + i, m);
          Sums to;
          for (int k = 0; k < count; ++k) add(to, k, m, from + k * tile.stride + i, middle);
          add_to_columns(sums + i, m, total(to.first));
          add_to_columns(squares + i, m, total(to.second));
        });
      });
    }
  }

  static void normalise(const Tile& tile, const void* x, const Affine& affine, void* y) {
    const Affine f = affine;
    const auto one = [](const Type* from, Type* to, Mask m, Vector center, Vector a, Vector b) {
      const Vector v = fma(read(from, m) - center, a, b);
      write(to, m, kAct ? v / one_plus_exp_for<T>(v) : v);
    };
    // Four rows of columns share what is loaded of their coefficients.
    const auto rows = [&](Int r, auto count) {
      const Type* from = row(x, tile, r);
      Type* to = row(y, tile, r);
      columns(tile.width, [&](Int i, Mask m) {
        const auto c = [&](const float* values) { return coefficient(values, r, i, m); };
        const Vector center = c(f.center), a = c(f.a), b = c(f.b);
        for (int k = 0; k < count; ++k)
          one(from + k * tile.stride + i, to + k * tile.stride + i, m, center, a, b);
      });
    };
    if constexpr (kPerRow) {
      for (Int r = 0; r < tile.rows; ++r) rows(r, std::integral_constant<int, 1>());
    } else {
      fours_of_rows(tile.rows, rows);
    }
  }

  static void grad_moments(const Tile& tile, const void* x, const void* dy, const Affine& affine,
                           const GradMoments& moments) {
    const Affine f = affine;
    const GradMoments to = moments;
    const auto add = [&](Sums& sums, Vector& deviation, int k, Mask m, const Type* from,
                         const Type* grad, Vector center, Vector a, Vector b) {
      const Vector d = _mm512_maskz_sub_ps(m, read(from, m), center);
      Vector dz = read(grad, m);
      // Sums may be wanted with the accuracy of floats.
      if (kAct) dz = silu_grad<Float32>(fma(d, a, b), dz);
      sums.add(k, dz, dz, d);
      if (to.deviation != nullptr) deviation += d;
    };
    if constexpr (kPerRow) {
      for (Int r = 0; r < tile.rows; ++r) {
        const Type *from = row(x, tile, r), *grad = row(dy, tile, r);
        const Vector center = all(f.center[r]), a = all(f.a[r]), b = all(f.b[r]);
        Sums sums;
        Vector deviation = {};
        pairs_of_columns(tile.width, [&](Int i, int k, Mask m) {
          add(sums, deviation, k, m, from + i, grad + i, center, a, b);
        });
        to.first[r] += _mm512_reduce_add_ps(total(sums.first));
        to.second[r] += _mm512_reduce_add_ps(total(sums.second));
        if (to.deviation != nullptr) to.deviation[r] += _mm512_reduce_add_ps(deviation);
      }
    } else {
      fours_of_rows(tile.rows, [&](Int r, auto count) {
        const Type *from = row(x, tile, r), *grad = row(dy, tile, r);
        columns(tile.width, [&](Int i, Mask m) {
          const auto c = [&](const float* values) { return Float32::load(values + i, m); };
          const Vector center = c(f.center), a = c(f.a), b = c(f.b);
          Sums sums;
          Vector deviation = {};
          for (int k = 0; k < count; ++k) {
            const Int offset = k * tile.stride + i;
            add(sums, deviation, k, m, from + offset, grad + offset, center, a, b);
          }
          add_to_columns(to.first + i, m, total(sums.first));
          add_to_columns(to.second + i, m, total(sums.second));
          if (to.deviation != nullptr) add_to_columns(to.deviation + i, m, deviation);
        });
      });
    }
  }

  static void input_grad(const Tile& tile, const void* x, const void* dy, const Affine& affine,
                         const InputGradient& gradient, void* dx) {
    const Affine f = affine;
    const InputGradient g = gradient;
    for (Int r = 0; r < tile.rows; ++r) {
      const Type *from = row(x, tile, r), *grad = row(dy, tile, r);
      const Type* more = g.dsummed == nullptr ? nullptr : row(g.dsummed, tile, r);
      Type* to = row(dx, tile, r);
      columns(tile.width, [&](Int i, Mask m) {
        const auto c = [&](const float* values) { return coefficient(values, r, i, m); };
        const Vector d = read(from + i, m) - c(f.center), a = c(f.a);
        Vector dz = read(grad + i, m);
        if (kAct) dz = silu_grad<T>(fma(d, a, c(f.b)), dz);
        Vector result = fma(dz, a, fma(d, c(g.p), c(g.q)));
        if (more != nullptr) result += read(more + i, m);
        write(to + i, m, result * all(g.scale));
      });
    }
  }

  static constexpr Kernels kernels = {&join, &moments, &normalise, &grad_moments, &input_grad};
};

template <class Bfloat>
constexpr Table table() {
  return {{{{Wide<Float32, false, false>::kernels, Wide<Float32, false, true>::kernels},
            {Wide<Float32, true, false>::kernels, Wide<Float32, true, true>::kernels}},
           {{Wide<Bfloat, false, false>::kernels, Wide<Bfloat, false, true>::kernels},
            {Wide<Bfloat, true, false>::kernels, Wide<Bfloat, true, true>::kernels}},
           {{Wide<Float16, false, false>::kernels, Wide<Float16, false, true>::kernels},
            {Wide<Float16, true, false>::kernels, Wide<Float16, true, true>::kernels}}}};
}

constexpr Table kTable = table<Bfloat16<false>>();
constexpr Table kBfloat16Table = table<Bfloat16<true>>();

}  // namespace
}  // namespace ctm_fast

#else

namespace ctm_fast {

const Kernels* wide_kernels(Dtype, bool, bool, bool) { return nullptr; }

}  // namespace ctm_fast

#endif
