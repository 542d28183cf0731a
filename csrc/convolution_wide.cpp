// A convolution as products of tiles: 16 pixels by 32 channels times 32 channels by 16 outputs.
//
// Two tiles of pixels and two of outputs are multiplied at a time, so every tile that is loaded is
// used twice. Their four sums stay in tile registers over the taps of 32 channels, and in L1
// between one block of channels and the next; the weights of a block are read once for all pixels
// of a piece of the image.

#include "convolution.h"

#if defined(CTM_FAST_AMX)

#include <algorithm>
#include <vector>

#include "tiles.h"

namespace ctm_fast {
namespace {

constexpr Int kTaps = 9;
constexpr Int kPixels = 512;  // of a piece, about: its sums should stay near

// How the work is cut: pieces of `rows` image rows, times groups of `panels` panels of 32 outputs.
struct Cut {
  Int rows, panels;
};

struct Shape {
  Int batch, height, width, blocks, panels;

  explicit Shape(const Convolution& op)
      : batch(op.batch),
        height(op.height),
        width(op.width),
        blocks(op.channels / kWide),
        panels(op.outputs / kWide) {}

  bool narrow() const { return width < kTile; }
  // Least number of rows that is made of pairs of tiles.
  Int step() const { return width >= kWide ? 1 : kWide / width; }
  Int tasks(const Cut& cut) const { return batch * up(height, cut.rows) * up(panels, cut.panels); }

  // Cycles of the busiest thread, roughly. Weights are fetched while others are multiplied.
  Int cost(const Cut& cut, int threads) const {
    const Int pairs = up(cut.rows * width, kWide);
    const Int product = blocks * cut.panels * std::max<Int>(pairs * (64 * kTaps + 40), 1200);
    const Int packing = 8 * blocks * (cut.rows + 2) * (width + 2);
    return up(tasks(cut), threads) * (product + packing);
  }

  Cut cut(int threads) const {
    Cut best{step(), 1};
    Int least = -1;
    for (Int groups = 1; groups <= panels; ++groups) {
      for (Int rows = step(); rows < 2 * height; rows *= 2) {
        if (rows > step() && rows * width > kPixels) break;
        const Cut cut{rows, up(panels, groups)};
        const Int cycles = cost(cut, threads);
        if (least < 0 || cycles < least) {
          best = cut;
          least = cycles;
        }
      }
      if (groups >= 8 * threads) break;
    }
    return best;
  }
};

// Rows first - 1 .. first + rows of an image with a border of zeros, block by block:
// [block][row][column][32]. With fewer than 16 columns a tile is made of several rows, which must
// then follow each other without a border; so there is one copy per tap's column.
class Piece {
 public:
  Piece(const Shape& shape, Int rows) : shape_(shape), rows_(rows + 2) {
    pitch_ = shape.narrow() ? shape.width : shape.width + 2;
    copy_ = rows_ * pitch_ * kWide;
    block_ = shape.narrow() ? 3 * copy_ : copy_;
  }

  Int size() const { return block_ * shape_.blocks; }
  Int block() const { return block_; }
  // Where a tile starts, and where a tap of it does.
  Int tile(Int index) const {
    if (shape_.narrow()) return index * kTile * kWide;
    const Int per_row = shape_.width / kTile;
    return (index / per_row * pitch_ + index % per_row * kTile) * kWide;
  }
  Int tap(Int row, Int column) const {
    return shape_.narrow() ? column * copy_ + row * pitch_ * kWide
                           : (row * pitch_ + column) * kWide;
  }

  void pack(const Bfloat* image, Int first, Bfloat* out) const {
    for (Int row = 0; row < rows_; ++row) {
      const Int y = first - 1 + row;
      const Bfloat* line =
          y < 0 || y >= shape_.height ? nullptr : image + y * shape_.width * shape_.blocks * kWide;
      if (!shape_.narrow()) {
        pack_row(line, -1, out + row * pitch_ * kWide);
        continue;
      }
      for (Int column = 0; column < 3; ++column)
        pack_row(line, column - 1, out + column * copy_ + row * pitch_ * kWide);
    }
  }

 private:
  // `line`'s pixels from column `from` on, for all blocks.
  void pack_row(const Bfloat* line, Int from, Bfloat* out) const {
    const __m512i zero = _mm512_setzero_si512();
    for (Int column = 0; column < pitch_; ++column) {
      const Int x = from + column;
      const bool inside = line != nullptr && x >= 0 && x < shape_.width;
      const Bfloat* pixel = inside ? line + x * shape_.blocks * kWide : nullptr;
      for (Int block = 0; block < shape_.blocks; ++block)
        _mm512_store_si512(out + column * kWide + block * block_,
                           inside ? _mm512_loadu_si512(pixel + block * kWide) : zero);
    }
  }

  const Shape& shape_;
  Int rows_, pitch_, copy_, block_;
};

// Lines of weights into the cache.
CTM_FAST_FLAT void fetch(const Bfloat* weight, Int lines) {
  const char* line = reinterpret_cast<const char*>(weight);
  for (Int i = 0; i < lines; ++i) _mm_prefetch(line + i * kLine, _MM_HINT_T0);
}

// One piece of an image for the panels from `panel` to `end`.
class Worker {
 public:
  Worker(const Convolution& op, const Shape& shape, const Cut& cut)
      : op_(op), shape_(shape), rows_(cut.rows), piece_(shape, cut.rows) {
    for (Int tap = 0; tap < kTaps; ++tap) taps_[tap] = piece_.tap(tap / 3, tap % 3);
    for (Int tile = 0; tile < cut.rows * shape.width / kTile; ++tile)
      tiles_.push_back(piece_.tile(tile));
  }

  void run(Int image, Int first, Int panel, Int end) {
    static thread_local Aligned scratch;
    const Int pairs = static_cast<Int>(tiles_.size()) / 2;
    Bfloat* rows = scratch.of(2 * piece_.size() + 4 * pairs * kSums);
    auto* sums = reinterpret_cast<float*>(rows + piece_.size());
    piece_.pack(op_.x + image * shape_.height * shape_.width * op_.channels, first, rows);
    settle(rows);
    const Int pixels = std::min(rows_, shape_.height - first) * shape_.width;
    const Int start = (image * shape_.height + first) * shape_.width;
    for (; panel < end; ++panel) {
      add_blocks(rows, op_.weight + panel * shape_.blocks * kTaps * kWeights, sums);
      const Bfloat* bias = op_.bias == nullptr ? nullptr : op_.bias + panel * kWide;
      write(sums, pixels, bias, op_.y + start * op_.outputs + panel * kWide, op_.outputs);
    }
  }

 private:
  void add_blocks(const Bfloat* rows, const Bfloat* weight, float* sums) const {
    const Int pairs = static_cast<Int>(tiles_.size()) / 2;
    // The next block's weights are fetched little by little: more would hold up what is needed now.
    const Int lines = up(kWide, pairs);
    for (Int block = 0; block < shape_.blocks; ++block) {
      const Bfloat* next = weight + kTaps * kWeights;
      for (Int pair = 0; pair < pairs; ++pair) {
        const Bfloat *first = rows + tiles_[2 * pair], *second = rows + tiles_[2 * pair + 1];
        const Int share = std::min(lines, kWide - pair * lines);
        const Bfloat* ahead = next + pair * lines * kWide;
        float* at = sums + pair * kSums;
        if (block == 0)
          clear_sums();
        else
          load_sums(at);
        for (Int tap = 0; tap < kTaps; ++tap) {
          multiply(first + taps_[tap], second + taps_[tap], kLine, weight + tap * kWeights);
          fetch(ahead + tap * kWeights, share);
        }
        store_sums(at);
      }
      rows += piece_.block();
      weight = next;
    }
  }

  const Convolution& op_;
  const Shape& shape_;
  Int rows_;
  Piece piece_;
  Int taps_[kTaps];
  std::vector<Int> tiles_;
};

}  // namespace

void convolution_wide_cpu(const Convolution& op, int threads) {
  const Shape shape(op);
  const Cut cut = shape.cut(threads);
  const Int pieces = up(shape.height, cut.rows), groups = up(shape.panels, cut.panels);
  const Int tasks = shape.tasks(cut);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    configure();
    Worker worker(op, shape, cut);
#pragma omp for schedule(static)
    for (Int task = 0; task < tasks; ++task) {
      const Int group = task / (shape.batch * pieces), image = task / pieces % shape.batch;
      worker.run(image, task % pieces * cut.rows, group * shape.panels / groups,
                 (group + 1) * shape.panels / groups);
    }
    _tile_release();
  }
}

}  // namespace ctm_fast

#endif
