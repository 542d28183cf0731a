// Group norm on the CPU. Results do not depend on the number of threads: every sum over pixels is
// taken in blocks of a fixed number of rows, whichever thread has them.

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "group_norm_blocks.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace ctm_fast {
namespace {

constexpr Int kNarrowest = 64;         // channels of a part: fewer would share cache lines
constexpr Int kSerialBytes = 1 << 16;  // below this, waking threads costs more

Factors factors_of(const GroupNorm& op, const Part& part, Scratch& s) {
  return {channels_of(op.weight, part, s.row(Scratch::kWeight)),
          channels_of(op.bias, part, s.row(Scratch::kBias)),
          channels_of(op.scale, part, s.row(Scratch::kScale)),
          channels_of(op.shift, part, s.row(Scratch::kShift)),
          channels_of(op.pre, part, s.row(Scratch::kPre))};
}

double* cleared(double* values, const Part& part) {
  std::fill_n(values, part.count, 0.0);
  return values;
}

void forward(const GroupNorm& op, const Part& part, double eps, void* y, float* mean, float* rstd,
             Scratch& s) {
  const Factors f = factors_of(op, part, s);
  const Int depth = op.channels / op.groups, groups = part.count / depth;
  const Int first_group = part.sample * op.groups + part.first / depth;
  const double pixels = static_cast<double>(op.pixels), count = pixels * depth;
  float *data = s.block(Scratch::kData), *sums = s.block(Scratch::kSums);
  float *center = s.row(Scratch::kCenter), *a = s.row(Scratch::kA), *b = s.row(Scratch::kB);
  double *means = s.total(Scratch::kMean), *rstds = s.total(Scratch::kRstd);

  double* total = cleared(s.total(Scratch::kFirst), part);
  each_block(op, part, [&](const Block& block) {
    sum_rows(load(op.dtype, op.x, block, data), zeros(block, sums), block.size);
    collect(sums, block, total);
  });
  for (Int g = 0; g < groups; ++g) {
    double sum = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) sum += total[c] + pixels * f.pre[c];
    mean[first_group + g] = static_cast<float>(sum / count);
    std::fill_n(means + g * depth, depth, sum / count);
  }
  for (Int c = 0; c < part.count; ++c) center[c] = static_cast<float>(means[c] - f.pre[c]);

  cleared(total, part);
  each_block(op, part, [&](const Block& block) {
    square_rows(load(op.dtype, op.x, block, data), spread(center, block, s.block(Scratch::kSpread)),
                zeros(block, sums), block.size);
    collect(sums, block, total);
  });
  for (Int g = 0; g < groups; ++g) {
    double sum = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) sum += total[c];
    const double scale = 1.0 / std::sqrt(sum / count + eps);
    rstd[first_group + g] = static_cast<float>(scale);
    std::fill_n(rstds + g * depth, depth, scale);
  }
  set_coefficients(f, means, rstds, center, a, b, part.count);

  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, data);
    const Out out = target(op.dtype, y, block, s.block(Scratch::kData + 1));
    (op.act ? silu_rows : affine_rows)(x, spread(center, block, s.block(Scratch::kSpread)),
                                       spread(a, block, s.block(Scratch::kSpread + 1)),
                                       spread(b, block, s.block(Scratch::kSpread + 2)), out,
                                       block.size);
    store(op.dtype, out, y, block);
  });
}

// Gradients of one part; d.weight and d.bias are (batch, channels) here.
void backward(const GroupNorm& op, const Part& part, const void* dy, const float* mean,
              const float* rstd, const Gradients& d, Scratch& s) {
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

  float* spreads[4];
  for (int i = 0; i < 4; ++i) spreads[i] = s.block(Scratch::kSpread + i);
  float *x_data = s.block(Scratch::kData), *dy_data = s.block(Scratch::kData + 1);
  float* dz_data = s.block(Scratch::kData + 2);
  float *sums = s.block(Scratch::kSums), *moments = s.block(Scratch::kSums + 1);

  // Gradient of what SiLU is applied to. Computed twice: keeping it costs more than an exp.
  const auto inner_grad = [&](const Block& block, const In& x) {
    const In grad = load(op.dtype, dy, block, dy_data);
    if (!op.act) return grad;
    const Out dz{dz_data, block.size.width};
    silu_grad_rows(x, grad, spread(center, block, spreads[0]), spread(a, block, spreads[1]),
                   spread(b, block, spreads[2]), dz, block.size);
    return In{dz.data, dz.stride};
  };

  double* first = cleared(s.total(Scratch::kFirst), part);
  double* second = cleared(s.total(Scratch::kSecond), part);
  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, x_data);
    const In dz = inner_grad(block, x);
    moment_rows(x, dz, spread(center, block, spreads[0]), zeros(block, sums), zeros(block, moments),
                block.size);
    collect(sums, block, first);
    collect(moments, block, second);
  });
  const auto wanted = [&](float* values) {
    return values == nullptr ? s.row(Scratch::kUnused) : values + offset;
  };
  float* shift = d.shift == nullptr ? s.row(Scratch::kP) : d.shift + offset;
  set_factor_gradients(f, rstds, first, second,
                       {d.weight + offset, d.bias + offset, wanted(d.scale), shift}, part.count);

  float *p = s.row(Scratch::kP), *q = s.row(Scratch::kQ);
  for (Int g = 0; g < groups; ++g) {
    double along_one = 0.0, along_x = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) {
      along_one += first[c];
      along_x += second[c];
    }
    const double r = rstd[first_group + g];
    std::fill_n(p + g * depth, depth, static_cast<float>(-r * r * along_x / count));
    std::fill_n(q + g * depth, depth, static_cast<float>(-r * along_one / count));
  }

  cleared(first, part);
  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, x_data);
    const In dz = inner_grad(block, x);
    const Out dx = target(op.dtype, d.x, block, op.act ? dy_data : dz_data);
    input_grad_rows(x, dz, spread(center, block, spreads[0]), spread(a, block, spreads[1]),
                    spread(p, block, spreads[2]), spread(q, block, spreads[3]), dx, block.size);
    store(op.dtype, dx, d.x, block);
    if (d.pre == nullptr) return;
    sum_rows({dx.data, dx.stride}, zeros(block, sums), block.size);
    collect(sums, block, first);
  });
  if (d.pre != nullptr)
    for (Int c = 0; c < part.count; ++c) d.pre[offset + c] = static_cast<float>(first[c]);
}

// Into how many parts a sample is cut, so that every thread has work.
Int parts_per_sample(const GroupNorm& op, int threads) {
  const Int wanted = (threads + op.batch - 1) / op.batch;
  const Int most = op.channels_last ? std::max<Int>(op.channels / kNarrowest, 1) : op.groups;
  return std::min({wanted, most, op.groups});
}

template <class Work>
void each_part(const GroupNorm& op, int threads, Work work) {
  const Int bytes = op.batch * op.channels * op.pixels * (op.dtype == Dtype::float32 ? 4 : 2);
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

// sums = parts (batch, channels) added over the batch
void sum_batch(const GroupNorm& op, const float* parts, float* sums) {
  std::vector<float> partial(op.channels);
  std::vector<double> total(op.channels);
  for (Int n = 0; n < op.batch; n += 64) {
    std::fill(partial.begin(), partial.end(), 0.0f);
    sum_rows({parts + n * op.channels, op.channels}, partial.data(),
             {std::min<Int>(64, op.batch - n), op.channels});
    for (Int c = 0; c < op.channels; ++c) total[c] += partial[c];
  }
  for (Int c = 0; c < op.channels; ++c) sums[c] = static_cast<float>(total[c]);
}

}  // namespace

void group_norm_cpu(const GroupNorm& op, double eps, void* y, float* mean, float* rstd,
                    int threads) {
  each_part(op, threads, [&](const Part& part, Scratch& scratch) {
    forward(op, part, eps, y, mean, rstd, scratch);
  });
}

void group_norm_backward_cpu(const GroupNorm& op, const void* dy, const float* mean,
                             const float* rstd, const Gradients& d, int threads) {
  const Int size = op.batch * op.channels;
  const std::unique_ptr<float[]> parts(new float[2 * size]);
  Gradients each = d;
  each.weight = parts.get();
  each.bias = parts.get() + size;
  each_part(op, threads, [&](const Part& part, Scratch& scratch) {
    backward(op, part, dy, mean, rstd, each, scratch);
  });
  sum_batch(op, each.weight, d.weight);
  sum_batch(op, each.bias, d.bias);
}

}  // namespace ctm_fast
