// Group norm: the blocks that a part of one sample is worked through in, and a thread's memory.
#pragma once

#include <algorithm>
#include <memory>

#include "group_norm.h"
#include "group_norm_rows.h"

namespace ctm_fast {

using Int = std::int64_t;

constexpr Int kBlock = 2048;  // floats of one block: a few fit into the L1 cache
constexpr Int kSpan = 64;     // width of the rows that a large contiguous image is cut into

// Channels [first, first + count) of one sample, all channels of some groups.
struct Part {
  Int sample, first, count;
};

// Rows of x inside a part; its columns are `run` columns for each of `channels` channels of the
// part, from `channel` on.
struct Block {
  Int channel, channels, run;
  Int offset, stride;
  Size size;
};

// Depends on the shape alone, so that sums do not depend on how a sample is cut into parts.
inline Int rows_per_block(const GroupNorm& op) {
  if (!op.channels_last) return kBlock / kSpan;
  return std::min<Int>(std::max<Int>(kBlock / op.channels, 4), 64);
}

template <class Visit>
void each_block(const GroupNorm& op, const Part& part, Visit visit) {
  const Int pixels = op.pixels, step = rows_per_block(op);
  const Int base = part.sample * op.channels * pixels;
  if (op.channels_last) {
    for (Int r = 0; r < pixels; r += step) {
      const Int start = base + r * op.channels + part.first;
      const Size size{std::min(step, pixels - r), part.count};
      visit(Block{0, part.count, 1, start, op.channels, size});
    }
  } else if (pixels <= kBlock / 2) {
    const Int channels = kBlock / pixels;
    for (Int c = 0; c < part.count; c += channels) {
      const Int some = std::min(channels, part.count - c), width = some * pixels;
      visit(Block{c, some, pixels, base + (part.first + c) * pixels, width, {1, width}});
    }
  } else {
    const Int rows = pixels / kSpan, rest = pixels % kSpan;
    for (Int c = 0; c < part.count; ++c) {
      const Int start = base + (part.first + c) * pixels;
      for (Int r = 0; r < rows; r += step)
        visit(Block{c, 1, kSpan, start + r * kSpan, kSpan, {std::min(step, rows - r), kSpan}});
      if (rest > 0) visit(Block{c, 1, rest, start + rows * kSpan, rest, {1, rest}});
    }
  }
}

// What one thread works in. Nothing is initialised.
class Scratch {
 public:
  // Blocks of a matrix, of coefficients spread over columns, of sums of columns.
  enum { kData, kSpread = 3, kSums = 7, kBlocks = 9 };
  // Values of every channel.
  enum { kWeight, kBias, kScale, kShift, kPre, kCenter, kA, kB, kP, kQ, kUnused, kRows };
  enum { kFirst, kSecond, kMean, kRstd, kTotals };

  explicit Scratch(const GroupNorm& op)
      : block_(std::max(rows_per_block(op) * (op.channels_last ? op.channels : kSpan), kBlock)),
        channels_(op.channels),
        floats_(new float[kBlocks * block_ + kRows * channels_]),
        doubles_(new double[kTotals * channels_]) {}

  float* block(int i) { return floats_.get() + i * block_; }
  float* row(int i) { return floats_.get() + kBlocks * block_ + i * channels_; }
  double* total(int i) { return doubles_.get() + i * channels_; }

 private:
  Int block_, channels_;
  std::unique_ptr<float[]> floats_;
  std::unique_ptr<double[]> doubles_;
};

inline In load(Dtype dtype, const void* data, const Block& block, float* buffer) {
  const auto* halves = static_cast<const std::uint16_t*>(data) + block.offset;
  const Out to{buffer, block.size.width};
  switch (dtype) {
    case Dtype::bfloat16:
      widen_bfloat_rows(halves, block.stride, to, block.size);
      break;
    case Dtype::float16:
      widen_half_rows(halves, block.stride, to, block.size);
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
  const In values{from.data, from.stride};
  (dtype == Dtype::bfloat16 ? narrow_bfloat_rows : narrow_half_rows)(values, to, block.stride,
                                                                     block.size);
}

// The part's channels of a factor as floats; zeros if it is left out.
inline const float* channels_of(const Factor& factor, const Part& part, float* buffer) {
  if (factor.data == nullptr) {
    std::fill_n(buffer, part.count, 0.0f);
    return buffer;
  }
  const Int offset = part.sample * factor.stride + part.first, count = part.count;
  return load(factor.dtype, factor.data, {0, count, 1, offset, count, {1, count}}, buffer).data;
}

// A coefficient of every channel as one of every column.
inline const float* spread(const float* values, const Block& block, float* buffer) {
  if (block.run == 1) return values + block.channel;
  for (Int c = 0; c < block.channels; ++c)
    std::fill_n(buffer + c * block.run, block.run, values[block.channel + c]);
  return buffer;
}

// Sums of columns, to be added to `total` by `collect`.
inline float* zeros(const Block& block, float* buffer) {
  std::fill_n(buffer, block.size.width, 0.0f);
  return buffer;
}

inline void collect(const float* sums, const Block& block, double* total) {
  total += block.channel;
  if (block.run == 1) {
    for (Int c = 0; c < block.channels; ++c) total[c] += sums[c];
    return;
  }
  for (Int c = 0; c < block.channels; ++c, sums += block.run) {
    float lanes[8] = {};
    const Int whole = block.run / 8 * 8;
    for (Int i = 0; i < whole; i += 8)
      for (int lane = 0; lane < 8; ++lane) lanes[lane] += sums[i + lane];
    double sum = 0.0;
    for (Int i = whole; i < block.run; ++i) sum += sums[i];
    for (const float lane : lanes) sum += lane;
    total[c] += sum;
  }
}

}  // namespace ctm_fast
