// The inner loops of the group norm in plain C++, for the compiler to vectorise: pieces of a tile
// are widened into buffers on the stack, and every loop is over floats.

#include "group_norm_rows.h"

#include <algorithm>
#include <cstring>

#include "simd.h"

namespace ctm_fast {
namespace {

using Int = std::int64_t;
// Restrict holds on the parameters of an inlined function, and nowhere else.
using Source = const float* __restrict__;
using Target = float* __restrict__;

constexpr Int kPiece = 1024;  // values: with their buffers they stay in the L1 cache
constexpr Int kLanes = 32;    // partial sums of one row, as the compiler may not reorder a sum

// Some values of one row, or several short rows that follow each other without a gap.
struct Piece {
  Int offset, coefficient, rows, width;  // of the first value and of its coefficient
  Int count() const { return rows * width; }
};

template <class Visit>
CTM_FAST_FLAT void each_piece(const Tile& tile, Visit visit) {
  const bool dense = tile.stride == tile.width;
  const Int together = dense ? std::max<Int>(kPiece / tile.width, 1) : 1;
  for (Int r = 0; r < tile.rows; r += together) {
    const Int rows = std::min(together, tile.rows - r);
    for (Int i = 0; i < tile.width; i += kPiece)
      visit({r * tile.stride + i, tile.per_row ? r : i, rows, std::min(kPiece, tile.width - i)});
  }
}

// visit(first value in the buffers, its coefficient) for every row of a piece
template <class Visit>
CTM_FAST_FLAT void each_row(const Tile& tile, const Piece& piece, Visit visit) {
  for (Int r = 0; r < piece.rows; ++r)
    visit(r * piece.width, piece.coefficient + (tile.per_row ? r : 0));
}

CTM_FAST_FLAT const float* load(Dtype dtype, const void* from, const Piece& piece,
                                float* __restrict__ to) {
  if (dtype == Dtype::float32) return static_cast<const float*>(from) + piece.offset;
  const auto* __restrict__ halves = static_cast<const std::uint16_t*>(from) + piece.offset;
  const Int count = piece.count();
  if (dtype == Dtype::bfloat16) {
    for (Int i = 0; i < count; ++i) to[i] = widen_bfloat(halves[i]);
  } else {
    for (Int i = 0; i < count; ++i) to[i] = widen_half(halves[i]);
  }
  return to;
}

// Where values are computed before `store` takes them to `to`.
CTM_FAST_FLAT float* target(Dtype dtype, void* to, const Piece& piece, float* buffer) {
  return dtype == Dtype::float32 ? static_cast<float*>(to) + piece.offset : buffer;
}

CTM_FAST_FLAT void store(Dtype dtype, Source from, void* to, const Piece& piece) {
  if (dtype == Dtype::float32) return;
  auto* __restrict__ halves = static_cast<std::uint16_t*>(to) + piece.offset;
  const Int count = piece.count();
  if (dtype == Dtype::bfloat16) {
    for (Int i = 0; i < count; ++i) halves[i] = narrow_bfloat(from[i]);
  } else {
    for (Int i = 0; i < count; ++i) halves[i] = narrow_half(from[i]);
  }
}

// Each of these takes its coefficients from every column, or from one place for a whole row.

template <bool kRow>
CTM_FAST_FLAT void affine_of(Source x, Source center, Source a, Source b, Target y, Int count) {
  for (Int i = 0; i < count; ++i)
    y[i] = (x[i] - center[kRow ? 0 : i]) * a[kRow ? 0 : i] + b[kRow ? 0 : i];
}

template <bool kRow>
CTM_FAST_FLAT void input_grad_of(Source x, Source dz, Source center, Source a, Source p, Source q,
                                 Target dx, Int count) {
  for (Int i = 0; i < count; ++i) {
    const float d = x[i] - center[kRow ? 0 : i];
    dx[i] = dz[i] * a[kRow ? 0 : i] + (d * p[kRow ? 0 : i] + q[kRow ? 0 : i]);
  }
}

// first += z, second += z (x - center), where z is x - center itself if kSame
template <bool kRow, bool kSame>
CTM_FAST_FLAT void add_moments(Source x, Source z, Source center, Target first, Target second,
                               Int count) {
  for (Int i = 0; i < count; ++i) {
    const float d = x[i] - center[kRow ? 0 : i], value = kSame ? d : z[i];
    first[i] += value;
    second[i] += value * d;
  }
}

// The same with kSame for four rows, which loads and stores the sums of columns less often.
CTM_FAST_FLAT void add_four_moments(Source x0, Source x1, Source x2, Source x3, Source center,
                                    Target first, Target second, Int count) {
  for (Int i = 0; i < count; ++i) {
    const float d0 = x0[i] - center[i], d1 = x1[i] - center[i];
    const float d2 = x2[i] - center[i], d3 = x3[i] - center[i];
    first[i] += (d0 + d1) + (d2 + d3);
    second[i] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3);
  }
}

// The same for one row of a piece, to sums of columns or of that row.
template <bool kSame>
CTM_FAST_FLAT void moments_of(bool per_row, const float* x, const float* z, const float* center,
                              float* first, float* second, Int count) {
  if (!per_row) return add_moments<false, kSame>(x, z, center, first, second, count);
  float sums[kLanes] = {}, moments[kLanes] = {};
  Int i = 0;
  for (; i + kLanes <= count; i += kLanes)
    add_moments<true, kSame>(x + i, kSame ? x : z + i, center, sums, moments, kLanes);
  add_moments<true, kSame>(x + i, kSame ? x : z + i, center, sums, moments, count - i);
  for (Int width = kLanes / 2; width > 0; width /= 2) {
    for (Int k = 0; k < width; ++k) sums[k] += sums[k + width];
    for (Int k = 0; k < width; ++k) moments[k] += moments[k + width];
  }
  *first += sums[0];
  *second += moments[0];
}

CTM_FAST_FLAT void affine(const Tile& tile, const Piece& piece, const float* x, const Affine& f,
                          float* y) {
  each_row(tile, piece, [&](Int i, Int k) CTM_FAST_FLAT_LAMBDA {
    if (tile.per_row)
      affine_of<true>(x + i, f.center + k, f.a + k, f.b + k, y + i, piece.width);
    else
      affine_of<false>(x + i, f.center + k, f.a + k, f.b + k, y + i, piece.width);
  });
}

CTM_FAST_FLAT void silu_of(Target v, Int count) {
  for (Int i = 0; i < count; ++i) v[i] *= sigmoid(v[i]);
}

// v = dy SiLU'(v)
CTM_FAST_FLAT void silu_grad_of(Target v, Source dy, Int count) {
  for (Int i = 0; i < count; ++i) {
    const float s = sigmoid(v[i]);
    v[i] = dy[i] * (s + v[i] * (s * (1.0f - s)));
  }
}

// Gradient of what SiLU is applied to.
CTM_FAST_FLAT const float* inner_grad(const Tile& tile, const Piece& piece, const float* x,
                                      const float* dy, const Affine& f, float* dz) {
  if (!tile.act) return dy;
  affine(tile, piece, x, f, dz);
  silu_grad_of(dz, dy, piece.count());
  return dz;
}

CTM_FAST_FLAT void sum_of(Source x, Target sum, Int count) {
  for (Int i = 0; i < count; ++i) sum[i] += x[i];
}

CTM_FAST_FLAT void add_of(Source x, Source y, float scale, Target sum, Int count) {
  for (Int i = 0; i < count; ++i) sum[i] = scale * (x[i] + y[i]);
}

CTM_FAST_FLAT void scale_of(Target x, float scale, Int count) {
  for (Int i = 0; i < count; ++i) x[i] *= scale;
}

void copy(const Tile& tile, const void* x, void* to, Int to_stride) {
  const Int bytes = tile.dtype == Dtype::float32 ? 4 : 2;
  const char* from = static_cast<const char*>(x);
  for (Int r = 0; r < tile.rows; ++r)
    std::memcpy(static_cast<char*>(to) + r * to_stride * bytes, from + r * tile.stride * bytes,
                tile.width * bytes);
}

CTM_FAST_CLONES void join(const Tile& tile, const void* x, const void* residual, float scale,
                          void* joined, Int to_stride) {
  if (residual == nullptr) return copy(tile, x, joined, to_stride);
  // Rows that follow each other without a gap in one image only are taken one by one.
  const bool together = tile.stride == to_stride;
  for (Int r = 0; r < tile.rows; r += together ? tile.rows : 1) {
    Tile part = tile;
    if (!together) part.rows = 1;
    each_piece(part, [&](const Piece& piece) CTM_FAST_FLAT_LAMBDA {
      float buffers[3][kPiece];
      const Piece from{r * tile.stride + piece.offset, 0, piece.rows, piece.width};
      const Piece to{r * to_stride + piece.offset, 0, piece.rows, piece.width};
      float* values = target(tile.dtype, joined, to, buffers[2]);
      add_of(load(tile.dtype, x, from, buffers[0]), load(tile.dtype, residual, from, buffers[1]),
             scale, values, piece.count());
      store(tile.dtype, values, joined, to);
    });
  }
}

CTM_FAST_FLAT void moments_of_columns(const Tile& tile, const void* x, const float* center,
                                      float* sums, float* squares) {
  float buffers[4][kPiece / 4];
  // Not in pieces: which rows are added first must not depend on the width of the tile.
  for (Int r = 0, rows; r < tile.rows; r += rows) {
    rows = tile.rows - r >= 4 ? 4 : 1;
    for (Int i = 0; i < tile.width; i += kPiece / 4) {
      const Int count = std::min(kPiece / 4, tile.width - i);
      const float* from[4];
      for (Int k = 0; k < rows; ++k)
        from[k] = load(tile.dtype, x, {(r + k) * tile.stride + i, 0, 1, count}, buffers[k]);
      if (rows == 4)
        add_four_moments(from[0], from[1], from[2], from[3], center + i, sums + i, squares + i,
                         count);
      else
        add_moments<false, true>(from[0], nullptr, center + i, sums + i, squares + i, count);
    }
  }
}

CTM_FAST_CLONES void moments(const Tile& tile, const void* x, const float* center, float* sums,
                             float* squares) {
  if (!tile.per_row) return moments_of_columns(tile, x, center, sums, squares);
  each_piece(tile, [&](const Piece& piece) CTM_FAST_FLAT_LAMBDA {
    float buffer[kPiece];
    const float* from = load(tile.dtype, x, piece, buffer);
    each_row(tile, piece, [&](Int i, Int k) CTM_FAST_FLAT_LAMBDA {
      moments_of<true>(true, from + i, nullptr, center + k, sums + k, squares + k, piece.width);
    });
  });
}

CTM_FAST_CLONES void normalise(const Tile& tile, const void* x, const Affine& f, void* y) {
  each_piece(tile, [&](const Piece& piece) CTM_FAST_FLAT_LAMBDA {
    float buffers[2][kPiece];
    float* v = target(tile.dtype, y, piece, buffers[1]);
    affine(tile, piece, load(tile.dtype, x, piece, buffers[0]), f, v);
    if (tile.act) silu_of(v, piece.count());
    store(tile.dtype, v, y, piece);
  });
}

CTM_FAST_CLONES void grad_moments(const Tile& tile, const void* x, const void* dy, const Affine& f,
                                  const GradMoments& to) {
  each_piece(tile, [&](const Piece& piece) CTM_FAST_FLAT_LAMBDA {
    float buffers[3][kPiece], unused[kPiece];
    const float* from = load(tile.dtype, x, piece, buffers[0]);
    const float* grad = load(tile.dtype, dy, piece, buffers[1]);
    const float* dz = inner_grad(tile, piece, from, grad, f, buffers[2]);
    each_row(tile, piece, [&](Int i, Int k) CTM_FAST_FLAT_LAMBDA {
      moments_of<false>(tile.per_row, from + i, dz + i, f.center + k, to.first + k, to.second + k,
                        piece.width);
      if (to.deviation != nullptr)
        moments_of<true>(tile.per_row, from + i, nullptr, f.center + k, to.deviation + k, unused,
                         piece.width);
    });
  });
}

CTM_FAST_CLONES void input_grad(const Tile& tile, const void* x, const void* dy, const Affine& f,
                                const InputGradient& g, void* dx) {
  each_piece(tile, [&](const Piece& piece) CTM_FAST_FLAT_LAMBDA {
    float buffers[4][kPiece];
    const Int width = piece.width;
    const float* from = load(tile.dtype, x, piece, buffers[0]);
    const float* grad = load(tile.dtype, dy, piece, buffers[1]);
    const float* dz = inner_grad(tile, piece, from, grad, f, buffers[2]);
    float* to = target(tile.dtype, dx, piece, buffers[3]);
    each_row(tile, piece, [&](Int i, Int k) CTM_FAST_FLAT_LAMBDA {
      const float *center = f.center + k, *a = f.a + k, *p = g.p + k, *q = g.q + k;
      if (tile.per_row)
        input_grad_of<true>(from + i, dz + i, center, a, p, q, to + i, width);
      else
        input_grad_of<false>(from + i, dz + i, center, a, p, q, to + i, width);
    });
    if (g.dsummed != nullptr)
      sum_of(load(tile.dtype, g.dsummed, piece, buffers[1]), to, piece.count());
    if (g.scale != 1.0f) scale_of(to, g.scale, piece.count());
    store(tile.dtype, to, dx, piece);
  });
}

}  // namespace

const Kernels kPortable = {&join, &moments, &normalise, &grad_moments, &input_grad};

}  // namespace ctm_fast
