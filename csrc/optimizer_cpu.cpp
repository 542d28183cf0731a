// The optimizer step on the CPU: every array is read and written once.

#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "elementwise.h"
#include "simd.h"

namespace ctm_fast {
namespace {

// old + share (new - old), counted from the nearer end: where the share is 1 the result is `new`.
struct Blend {
  explicit Blend(double share)
      : from_old(share < 0.5), factor(static_cast<float>(from_old ? share : share - 1.0)) {}
  bool from_old;
  float factor;
};

struct Move {
  Blend first, second;
  float gain, scale, root, offset;
};

CTM_FAST_FLAT float blended(float old, float now, Blend blend) {
  return (blend.from_old ? old : now) + blend.factor * (now - old);
}

CTM_FAST_CLONES void move(float* __restrict__ weight, const float* __restrict__ grad,
                          float* __restrict__ first, float* __restrict__ second, std::int64_t count,
                          Move by) {
  for (std::int64_t i = 0; i < count; ++i) {
    const float g = by.gain * grad[i];
    const float m = blended(first[i], g, by.first);
    const float v = blended(second[i], g * g, by.second);
    first[i] = m;
    second[i] = v;
    weight[i] -= by.scale * m / (by.root * std::sqrt(v) + by.offset);
  }
}

CTM_FAST_CLONES void follow(float* __restrict__ average, const float* __restrict__ weight,
                            std::int64_t count, Blend by) {
  for (std::int64_t i = 0; i < count; ++i) average[i] = blended(average[i], weight[i], by);
}

struct Piece {
  std::int64_t index, begin, end;  // of which weight, from where to where
};

std::vector<Piece> pieces_of(const OptimizerStep& step) {
  std::vector<Piece> pieces;
  for (std::int64_t i = 0; i < step.count; ++i)
    for (std::int64_t begin = 0; begin < step.sizes[i]; begin += kChunk)
      pieces.push_back({i, begin, std::min(begin + kChunk, step.sizes[i])});
  return pieces;
}

}  // namespace

void optimizer_step_cpu(const OptimizerStep& step, int threads) {
  const std::vector<Piece> pieces = pieces_of(step);
  const std::vector<Blend> shares(step.follow, step.follow + step.averages);
  const std::int64_t count = step.count, total = static_cast<std::int64_t>(pieces.size());
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1 && total > 1)
#endif
  for (std::int64_t n = 0; n < total; ++n) {
    const Piece piece = pieces[n];
    const std::int64_t i = piece.index;
    const double* factors = step.factors + i;
    const Move by{Blend(step.new_first),
                  Blend(step.new_second),
                  static_cast<float>(step.gain),
                  static_cast<float>(factors[0]),
                  static_cast<float>(factors[count]),
                  static_cast<float>(factors[2 * count])};
    for (std::int64_t at = piece.begin; at < piece.end; at += kBlock) {
      const std::int64_t size = std::min(kBlock, piece.end - at);
      float* weight = step.tensors[i] + at;
      if (step.grads[i] != nullptr) {
        move(weight, step.grads[i] + at, step.tensors[count + i] + at,
             step.tensors[2 * count + i] + at, size, by);
      }
      for (std::int64_t k = 0; k < step.averages; ++k)
        follow(step.tensors[(3 + k) * count + i] + at, weight, size, shares[k]);
    }
  }
}

}  // namespace ctm_fast
