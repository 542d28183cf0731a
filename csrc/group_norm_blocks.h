// Group norm: the blocks that a part of one sample is worked through in, and a thread's memory.
#pragma once

#include <algorithm>
#include <memory>

#include "group_norm.h"
#include "group_norm_rows.h"

namespace ctm_fast {

using Int = std::int64_t;

constexpr Int kBlock = 4096;  // values of one block: what is read again lies in the L1 cache

// Channels [first, first + count) of one sample, all channels of some groups.
struct Part {
  Int sample, first, count;
};

// Pixels [pixel, pixel + pixels) of the part's channels [channel, channel + channels), from
// `offset` on in every image.
struct Block {
  Int channel, channels, pixel, pixels, offset;
  Tile tile;
};

// The blocks of a channel follow each other. Their sizes depend on the shape alone, so that sums
// do not depend on how a sample is cut into parts.
template <class Visit>
void each_block(const GroupNorm& op, const Part& part, Visit visit) {
  const Int pixels = op.pixels, base = part.sample * op.channels * pixels;
  const auto in_order = [&](Int size, Int step, auto call) {
    for (Int begin = 0; begin < size; begin += step) call(begin, std::min(step, size - begin));
  };
  if (op.channels_last) {
    const Int step = std::min<Int>(std::max<Int>(kBlock / op.channels, 4), 64);
    in_order(pixels, step, [&](Int r, Int rows) {
      const Tile tile{rows, part.count, op.channels, op.dtype, false, op.act};
      visit(Block{0, part.count, r, rows, base + r * op.channels + part.first, tile});
    });
    return;
  }
  in_order(part.count, std::max<Int>(kBlock / pixels, 1), [&](Int c, Int channels) {
    in_order(pixels, kBlock, [&](Int i, Int some) {
      const Tile tile{channels, some, pixels, op.dtype, true, op.act};
      visit(Block{c, channels, i, some, base + (part.first + c) * pixels + i, tile});
    });
  });
}

// What one thread works in. Nothing is initialised.
class Scratch {
 public:
  // Values of every channel.
  enum { kWeight, kBias, kScale, kShift, kPre, kCenter, kA, kB, kP, kQ, kSums, kMoments, kRows };
  enum { kFirst, kSecond, kDeviation, kMean, kRstd, kTotals };

  explicit Scratch(const GroupNorm& op)
      : channels_(op.channels),
        floats_(new float[kRows * channels_]),
        doubles_(new double[kTotals * channels_]) {}

  float* row(int i) { return floats_.get() + i * channels_; }
  double* total(int i) { return doubles_.get() + i * channels_; }

 private:
  Int channels_;
  std::unique_ptr<float[]> floats_;
  std::unique_ptr<double[]> doubles_;
};

}  // namespace ctm_fast
