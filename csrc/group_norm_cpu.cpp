// Group norm on the CPU. Results do not depend on the number of threads: every sum over pixels is
// taken in blocks of a fixed number of pixels, whichever thread has them.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include "group_norm_blocks.h"
#include "group_norm_channels.h"
#include "group_norm_join.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace ctm_fast {
namespace {

constexpr Int kNarrowest = 64;         // channels of a part: fewer would share cache lines
constexpr Int kPartBytes = 1 << 18;    // of contiguous images
constexpr Int kSerialBytes = 1 << 16;  // below this, waking threads costs more

// What `group_norm_use` allows.
enum Level { kPlain, kAvx512, kAvx512Bfloat16 };
std::atomic<Level> level{kAvx512Bfloat16};

const Kernels& kernels_for(Dtype dtype, bool per_row, bool act) {
  for (Level wide = level; wide > kPlain; wide = static_cast<Level>(wide - 1)) {
    const Kernels* found = wide_kernels(dtype, per_row, act, wide == kAvx512Bfloat16);
    if (found != nullptr) return *found;
  }
  return kPortable;
}

const Kernels& kernels_for(const GroupNorm& op) {
  return kernels_for(op.dtype, !op.channels_last, op.act);
}

template <class T>
T* at(const GroupNorm& op, T* images, Int offset) {
  using Byte = std::conditional_t<std::is_const_v<T>, const char, char>;
  return images == nullptr ? nullptr : static_cast<Byte*>(images) + offset * bytes_of(op.dtype);
}

Factors factors_of(const GroupNorm& op, const Part& part, Scratch& s) {
  const auto read = [&](const Factor& factor, int row) {
    return read_factor(factor, part.sample * factor.stride + part.first, s.row(row), part.count);
  };
  return {read(op.weight, Scratch::kWeight), read(op.bias, Scratch::kBias),
          read(op.scale, Scratch::kScale), read(op.shift, Scratch::kShift),
          read(op.pre, Scratch::kPre)};
}

const void* normalised(const GroupNorm& op, const Results& results) {
  return results.join.joined == nullptr ? op.x : results.join.joined;
}

template <class T>
T* cleared(T* values, const Part& part) {
  std::fill_n(values, part.count, T());
  return values;
}

// Mean and sum of squared deviations of every channel, from one pass over the images. Every block
// is centred on the mean of what came before it, the first one on its own: then what a float
// loses to the center is bounded by what the block adds to the variance.
void channel_moments(const GroupNorm& op, const Part& part, const Results& results, Scratch& s) {
  const Kernels& kernels = kernels_for(op);
  double* mean = cleared(s.total(Scratch::kFirst), part);
  double* squares = cleared(s.total(Scratch::kSecond), part);
  float* sums = cleared(s.row(Scratch::kSums), part);
  float* moments = cleared(s.row(Scratch::kMoments), part);
  float* center = cleared(s.row(Scratch::kCenter), part);
  each_block(op, part, [&](const Block& block) {
    const Int c = block.channel, n = block.channels;
    if (results.join.joined != nullptr)
      join_region(kernels, results.join,
                  {part.sample, part.first + c, n, block.pixel, block.pixels});
    const void* x = at(op, normalised(op, results), block.offset);
    if (block.pixel == 0) {
      kernels.moments(block.tile, x, center + c, sums + c, moments + c);
      for (Int i = c; i < c + n; ++i) {
        center[i] = sums[i] / static_cast<float>(block.pixels);
        sums[i] = moments[i] = 0.0f;
      }
    }
    kernels.moments(block.tile, x, center + c, sums + c, moments + c);
    merge_moments({mean + c, squares + c, block.pixel}, block.pixels, center + c, sums + c,
                  moments + c, n);
  });
}

void forward(const GroupNorm& op, const Part& part, double eps, const Results& results,
             Scratch& s) {
  const Kernels& kernels = kernels_for(op);
  const Factors f = factors_of(op, part, s);
  const Int depth = op.channels / op.groups, groups = part.count / depth;
  const Int first_group = part.sample * op.groups + part.first / depth;
  const double pixels = static_cast<double>(op.pixels);
  double *means = s.total(Scratch::kMean), *rstds = s.total(Scratch::kRstd);

  channel_moments(op, part, results, s);
  const double *mean = s.total(Scratch::kFirst), *squares = s.total(Scratch::kSecond);
  for (Int g = 0; g < groups; ++g) {
    double middle = 0.0, sum = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) middle += mean[c] + f.pre[c];
    middle /= static_cast<double>(depth);
    for (Int c = g * depth; c < (g + 1) * depth; ++c) {
      const double delta = mean[c] + f.pre[c] - middle;
      sum += squares[c] + pixels * delta * delta;
    }
    const double rstd = 1.0 / std::sqrt(sum / (pixels * depth) + eps);
    if (results.mean != nullptr) results.mean[first_group + g] = static_cast<float>(middle);
    if (results.rstd != nullptr) results.rstd[first_group + g] = static_cast<float>(rstd);
    std::fill_n(means + g * depth, depth, middle);
    std::fill_n(rstds + g * depth, depth, rstd);
  }
  float *center = s.row(Scratch::kCenter), *a = s.row(Scratch::kA), *b = s.row(Scratch::kB);
  set_coefficients(f, means, rstds, center, a, b, part.count);

  const void* x = normalised(op, results);
  each_block(op, part, [&](const Block& block) {
    const Int c = block.channel;
    kernels.normalise(block.tile, at(op, x, block.offset), {center + c, a + c, b + c},
                      at(op, results.y, block.offset));
  });
}

// Gradients of one part; d.weight and d.bias are (batch, channels) here.
void backward(const GroupNorm& op, const Part& part, const void* dy, const void* dsummed,
              const float* mean, const float* rstd, const Gradients& d, Scratch& s) {
  const Kernels& kernels = kernels_for(op);
  const Factors f = factors_of(op, part, s);
  const Int depth = op.channels / op.groups, groups = part.count / depth;
  const Int first_group = part.sample * op.groups + part.first / depth;
  const Int offset = part.sample * op.channels + part.first;
  const double count = static_cast<double>(op.pixels * depth);
  float *center = s.row(Scratch::kCenter), *a = s.row(Scratch::kA), *b = s.row(Scratch::kB);
  double *means = s.total(Scratch::kMean), *rstds = s.total(Scratch::kRstd);
  for (Int g = 0; g < groups; ++g) {
    std::fill_n(means + g * depth, depth, mean[first_group + g]);
    std::fill_n(rstds + g * depth, depth, rstd[first_group + g]);
  }
  set_coefficients(f, means, rstds, center, a, b, part.count);

  double* first = cleared(s.total(Scratch::kFirst), part);
  double* second = cleared(s.total(Scratch::kSecond), part);
  double* deviation = cleared(s.total(Scratch::kDeviation), part);
  const GradMoments sums{cleared(s.row(Scratch::kSums), part),
                         cleared(s.row(Scratch::kMoments), part),
                         d.pre == nullptr ? nullptr : cleared(s.row(Scratch::kP), part)};
  each_block(op, part, [&](const Block& block) {
    const Int c = block.channel, n = block.channels;
    const GradMoments here{sums.first + c, sums.second + c,
                           d.pre == nullptr ? nullptr : sums.deviation + c};
    kernels.grad_moments(block.tile, at(op, op.x, block.offset), at(op, dy, block.offset),
                         {center + c, a + c, b + c}, here);
    move_sums(here.first, first + c, n);
    move_sums(here.second, second + c, n);
    if (d.pre != nullptr) move_sums(here.deviation, deviation + c, n);
  });

  // Rows that are free by now stand in for results that are not wanted.
  float* scale = d.scale == nullptr ? sums.first : d.scale + offset;
  float* shift = d.shift == nullptr ? sums.second : d.shift + offset;
  set_factor_gradients(f, rstds, first, second, {d.weight + offset, d.bias + offset, scale, shift},
                       part.count);
  float *p = s.row(Scratch::kP), *q = s.row(Scratch::kQ);
  for (Int g = 0; g < groups; ++g) {
    const Int begin = g * depth, end = begin + depth;
    double along_one = 0.0, along_x = 0.0;
    for (Int c = begin; c < end; ++c) {
      along_one += first[c];
      along_x += second[c];
    }
    const double r = rstd[first_group + g];
    const double slope = -r * r * along_x / count, constant = -r * along_one / count;
    std::fill_n(p + begin, depth, static_cast<float>(slope));
    std::fill_n(q + begin, depth, static_cast<float>(constant));
    if (d.pre == nullptr) continue;
    for (Int c = begin; c < end; ++c)
      d.pre[offset + c] =
          static_cast<float>(r * first[c] + slope * deviation[c] + constant * op.pixels);
  }

  each_block(op, part, [&](const Block& block) {
    const Int c = block.channel;
    const InputGradient gradient{p + c, q + c, at(op, dsummed, block.offset), op.residual_scale};
    kernels.input_grad(block.tile, at(op, op.x, block.offset), at(op, dy, block.offset),
                       {center + c, a + c, b + c}, gradient, at(op, d.x, block.offset));
  });
}

// Into how many parts a sample is cut: every thread has work, and a part of contiguous images is
// still in the cache when it is gone through again. Cutting rows of channels costs more than that
// is worth.
Int parts_per_sample(const GroupNorm& op, int threads) {
  Int wanted = (threads + op.batch - 1) / op.batch;
  if (op.channels_last)
    return std::min({wanted, std::max<Int>(op.channels / kNarrowest, 1), op.groups});
  wanted = std::max(wanted, op.channels * op.pixels * bytes_of(op.dtype) / kPartBytes);
  return std::min(wanted, op.groups);
}

template <class Work>
void each_part(const GroupNorm& op, int threads, Work work) {
  const Int bytes = op.batch * op.channels * op.pixels * bytes_of(op.dtype);
  if (bytes < kSerialBytes) threads = 1;
  const Int pieces = parts_per_sample(op, threads), count = op.batch * pieces;
  const Int depth = op.channels / op.groups;
  threads = static_cast<int>(std::min<Int>(threads, count));
  // Allocated here because an exception must not leave a parallel region.
  std::vector<Scratch> scratch;
  for (int i = 0; i < threads; ++i) scratch.emplace_back(op);
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
  for (Int i = 0; i < count; ++i) {
#if defined(_OPENMP)
    Scratch& mine = scratch[omp_get_thread_num()];
#else
    Scratch& mine = scratch[0];
#endif
    const Int begin = op.groups * (i % pieces) / pieces * depth;
    const Int end = op.groups * (i % pieces + 1) / pieces * depth;
    work(Part{i / pieces, begin, end - begin}, mine);
  }
}

}  // namespace

void join_cpu(const Join& join, int threads) {
  const Kernels& kernels = kernels_for(join.dtype, !join.channels_last, false);
  join_all(kernels, join, join_bytes(join) < kSerialBytes ? 1 : threads);
}

void group_norm_cpu(const GroupNorm& op, double eps, const Results& results, int threads) {
  each_part(op, threads,
            [&](const Part& part, Scratch& scratch) { forward(op, part, eps, results, scratch); });
}

void group_norm_backward_cpu(const GroupNorm& op, const void* dy, const void* dsummed,
                             const float* mean, const float* rstd, const Gradients& d,
                             int threads) {
  const Int size = op.batch * op.channels;
  const std::unique_ptr<float[]> parts(new float[2 * size]);
  Gradients each = d;
  each.weight = parts.get();
  each.bias = parts.get() + size;
  each_part(op, threads, [&](const Part& part, Scratch& scratch) {
    backward(op, part, dy, dsummed, mean, rstd, each, scratch);
  });
  std::vector<double> total(op.channels);
  sum_rows(each.weight, op.batch, op.channels, total.data(), d.weight);
  sum_rows(each.bias, op.batch, op.channels, total.data(), d.bias);
}

bool group_norm_use(const char* name) {
  const char* names[] = {"portable", "avx512", "avx512_bf16"};
  for (const Level wanted : {kPlain, kAvx512, kAvx512Bfloat16}) {
    if (std::strcmp(name, names[wanted]) != 0) continue;
    const bool has =
        wanted == kPlain || wide_kernels(Dtype::float32, false, false, wanted == kAvx512Bfloat16);
    if (has) level = wanted;
    return has;
  }
  return false;
}

}  // namespace ctm_fast
