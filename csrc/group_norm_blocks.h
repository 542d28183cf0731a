// Group norm: the blocks that a part of one sample is worked through in, and a thread's memory.
#pragma once

#include <algorithm>
#include <vector>

#include "group_norm.h"
#include "group_norm_rows.h"

namespace ctm_fast {

using Int = std::int64_t;

constexpr Int kBlock = 2048;  // floats of one block: a few fit into the L1 cache
constexpr Int kSpan = 64;     // a channel of a contiguous image is rows of this width

// Channels [first, first + count) of one sample, all channels of some groups.
struct Part {
  Int sample, first, count;
};

// Rows of x inside a part. Columns are the part's channels if channels_last; else every column is
// channel `channel` of the part.
struct Block {
  Int channel, offset, stride;
  Size size;
};

inline Int rows_per_block(const GroupNorm& op) {
  const Int width = op.channels_last ? op.channels : kSpan;
  return std::min<Int>(std::max<Int>(kBlock / width, 4), 64);
}

template <class Visit>
void each_block(const GroupNorm& op, const Part& part, Visit visit) {
  const Int base = part.sample * op.channels * op.pixels, step = rows_per_block(op);
  if (op.channels_last) {
    for (Int r = 0; r < op.pixels; r += step) {
      const Size size{std::min(step, op.pixels - r), part.count};
      visit(Block{0, base + r * op.channels + part.first, op.channels, size});
    }
    return;
  }
  const Int rows = op.pixels / kSpan, rest = op.pixels % kSpan;
  for (Int c = 0; c < part.count; ++c) {
    const Int start = base + (part.first + c) * op.pixels;
    for (Int r = 0; r < rows; r += step)
      visit(Block{c, start + r * kSpan, kSpan, {std::min(step, rows - r), kSpan}});
    if (rest > 0) visit(Block{c, start + rows * kSpan, rest, {1, rest}});
  }
}

// Rows of a Scratch. The four from kSpread on hold one channel's coefficients, kSpan times.
enum { kWeight, kBias, kScale, kShift, kPre, kCenter, kA, kB, kP, kQ, kFirst, kSecond, kSpread };

// What one thread works in.
struct Scratch {
  explicit Scratch(const GroupNorm& op)
      : width(std::max(op.channels, kSpan)),
        block(rows_per_block(op) * (op.channels_last ? op.channels : kSpan)),
        floats(3 * block + (kSpread + 4) * width),
        doubles(3 * width) {}

  float* block_of(int i) { return floats.data() + i * block; }
  float* row(int i) { return floats.data() + 3 * block + i * width; }
  double* total(int i) { return doubles.data() + i * width; }

  Int width, block;
  std::vector<float> floats;
  std::vector<double> doubles;
};

inline const std::uint16_t* halves(const void* data, Int offset) {
  return static_cast<const std::uint16_t*>(data) + offset;
}

inline In load(Dtype dtype, const void* data, const Block& block, float* buffer) {
  const Out to{buffer, block.size.width};
  switch (dtype) {
    case Dtype::bfloat16:
      widen_bfloat_rows(halves(data, block.offset), block.stride, to, block.size);
      break;
    case Dtype::float16:
      widen_half_rows(halves(data, block.offset), block.stride, to, block.size);
      break;
    default:
      return {static_cast<const float*>(data) + block.offset, block.stride};
  }
  return {buffer, block.size.width};
}

// Where a block's result goes before `store` takes it to `data`.
inline Out target(Dtype dtype, void* data, const Block& block, float* buffer) {
  if (dtype == Dtype::float32) return {static_cast<float*>(data) + block.offset, block.stride};
  return {buffer, block.size.width};
}

inline void store(Dtype dtype, Out from, void* data, const Block& block) {
  if (dtype == Dtype::float32) return;
  std::uint16_t* to = static_cast<std::uint16_t*>(data) + block.offset;
  if (dtype == Dtype::bfloat16) {
    narrow_bfloat_rows({from.data, from.stride}, to, block.stride, block.size);
  } else {
    narrow_half_rows({from.data, from.stride}, to, block.stride, block.size);
  }
}

// The part's channels of a factor as floats, or nullptr if it is left out.
inline const float* channels_of(const Factor& factor, const Part& part, float* buffer) {
  if (factor.data == nullptr) return nullptr;
  const Int offset = part.sample * factor.stride + part.first;
  return load(factor.dtype, factor.data, {0, offset, part.count, {1, part.count}}, buffer).data;
}

// One pass over a part: its blocks, and the coefficients and sums that go with their columns.
class Pass {
 public:
  Pass(const GroupNorm& op, const Part& part, Scratch& scratch)
      : op_(op), part_(part), scratch_(scratch) {}

  const float* spread(int row, const Block& block, int slot) {
    float* values = scratch_.row(row);
    if (op_.channels_last) return values;
    float* buffer = scratch_.row(kSpread + slot);
    std::fill_n(buffer, block.size.width, values[block.channel]);
    return buffer;
  }

  // Zeroed partial sums of a block; `collect` adds them to the part's total.
  float* partial(int i, const Block& block) {
    float* sums = scratch_.row(kFirst + i);
    std::fill_n(sums, block.size.width, 0.0f);
    return sums;
  }

  void collect(int i, const Block& block) {
    const float* sums = scratch_.row(kFirst + i);
    double* total = scratch_.total(i);
    if (op_.channels_last) {
      for (Int c = 0; c < block.size.width; ++c) total[c] += sums[c];
    } else {
      double sum = 0.0;
      for (Int c = 0; c < block.size.width; ++c) sum += sums[c];
      total[block.channel] += sum;
    }
  }

  double* clear(int i) {
    std::fill_n(scratch_.total(i), part_.count, 0.0);
    return scratch_.total(i);
  }

 private:
  const GroupNorm& op_;
  const Part& part_;
  Scratch& scratch_;
};

}  // namespace ctm_fast
