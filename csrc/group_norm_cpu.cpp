// Group norm on the CPU. Results do not depend on the number of threads: every sum over pixels is
// taken in blocks of a fixed number of rows, whichever thread has them.

#include <algorithm>
#include <cmath>
#include <vector>

#include "group_norm_blocks.h"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace ctm_fast {
namespace {

constexpr Int kNarrowest = 64;         // channels of a part: fewer would share cache lines
constexpr Int kSerialBytes = 1 << 16;  // below this, waking threads costs more

struct Factors {
  Factors(const GroupNorm& op, const Part& part, Scratch& s)
      : weight(channels_of(op.weight, part, s.row(kWeight))),
        bias(channels_of(op.bias, part, s.row(kBias))),
        scale(channels_of(op.scale, part, s.row(kScale))),
        shift(channels_of(op.shift, part, s.row(kShift))),
        pre(channels_of(op.pre, part, s.row(kPre))) {}

  double gain(Int c) const { return scale == nullptr ? 1.0 : 1.0 + scale[c]; }

  const float *weight, *bias, *scale, *shift, *pre;
};

// Center, a and b of one group: x - center is the normalised x over rstd, a x + b the output.
void set_coefficients(const Factors& f, Scratch& s, Int begin, Int end, double mean, double rstd) {
  float *center = s.row(kCenter), *a = s.row(kA), *b = s.row(kB);
  for (Int c = begin; c < end; ++c) {
    const double middle = f.pre == nullptr ? mean : mean - f.pre[c];
    const double gain = f.gain(c);
    center[c] = static_cast<float>(middle);
    a[c] = static_cast<float>(rstd * f.weight[c] * gain);
    const double offset = f.bias[c] * gain + (f.shift == nullptr ? 0.0 : f.shift[c]);
    b[c] = static_cast<float>(offset - middle * a[c]);
  }
}

void forward(const GroupNorm& op, const Part& part, double eps, void* y, float* mean, float* rstd,
             Scratch& s) {
  const Factors f(op, part, s);
  const Int depth = op.channels / op.groups, first_group = part.first / depth;
  const double count = static_cast<double>(depth * op.pixels);
  Pass pass(op, part, s);

  double* total = pass.clear(0);
  each_block(op, part, [&](const Block& block) {
    sum_rows(load(op.dtype, op.x, block, s.block_of(0)), pass.partial(0, block), block.size);
    pass.collect(0, block);
  });
  double* means = s.total(2);
  for (Int g = 0; g < part.count / depth; ++g) {
    double sum = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c)
      sum += total[c] + (f.pre == nullptr ? 0.0 : static_cast<double>(op.pixels) * f.pre[c]);
    means[g] = sum / count;
    set_coefficients(f, s, g * depth, (g + 1) * depth, means[g], 0.0);
  }

  total = pass.clear(0);
  each_block(op, part, [&](const Block& block) {
    square_rows(load(op.dtype, op.x, block, s.block_of(0)), pass.spread(kCenter, block, 0),
                pass.partial(0, block), block.size);
    pass.collect(0, block);
  });
  for (Int g = 0; g < part.count / depth; ++g) {
    double sum = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) sum += total[c];
    const double scale = 1.0 / std::sqrt(sum / count + eps);
    set_coefficients(f, s, g * depth, (g + 1) * depth, means[g], scale);
    mean[part.sample * op.groups + first_group + g] = static_cast<float>(means[g]);
    rstd[part.sample * op.groups + first_group + g] = static_cast<float>(scale);
  }

  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, s.block_of(0));
    const Out out = target(op.dtype, y, block, s.block_of(1));
    const float *a = pass.spread(kA, block, 0), *b = pass.spread(kB, block, 1);
    (op.act ? silu_rows : affine_rows)(x, a, b, out, block.size);
    store(op.dtype, out, y, block);
  });
}

void backward(const GroupNorm& op, const Part& part, const void* dy, const float* mean,
              const float* rstd, const Gradients& d, float* weight_parts, float* bias_parts,
              Scratch& s) {
  const Factors f(op, part, s);
  const Int depth = op.channels / op.groups, offset = part.sample * op.channels + part.first;
  mean += part.sample * op.groups + part.first / depth;
  rstd += part.sample * op.groups + part.first / depth;
  for (Int g = 0; g < part.count / depth; ++g)
    set_coefficients(f, s, g * depth, (g + 1) * depth, mean[g], rstd[g]);
  Pass pass(op, part, s);

  // Gradient of what SiLU is applied to. Computed twice: keeping it costs more than an exp.
  const auto inner_grad = [&](const Block& block, const In& x) {
    const In grad = load(op.dtype, dy, block, s.block_of(1));
    if (!op.act) return grad;
    const Out dz{s.block_of(2), block.size.width};
    silu_grad_rows(x, grad, pass.spread(kA, block, 0), pass.spread(kB, block, 1), dz, block.size);
    return In{dz.data, dz.stride};
  };

  double *first = pass.clear(0), *second = pass.clear(1);
  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, s.block_of(0));
    const In dz = inner_grad(block, x);
    moment_rows(x, dz, pass.spread(kCenter, block, 2), pass.partial(0, block),
                pass.partial(1, block), block.size);
    pass.collect(0, block);
    pass.collect(1, block);
  });

  float *p = s.row(kP), *q = s.row(kQ);
  const double count = static_cast<double>(depth * op.pixels);
  for (Int g = 0; g < part.count / depth; ++g) {
    double along_one = 0.0, along_x = 0.0;
    for (Int c = g * depth; c < (g + 1) * depth; ++c) {
      const double sum = first[c], moment = second[c] * rstd[g], gain = f.gain(c);
      weight_parts[offset + c] = static_cast<float>(gain * moment);
      bias_parts[offset + c] = static_cast<float>(gain * sum);
      if (d.shift != nullptr) d.shift[offset + c] = static_cast<float>(sum);
      if (d.scale != nullptr)
        d.scale[offset + c] = static_cast<float>(f.weight[c] * moment + f.bias[c] * sum);
      along_one += gain * f.weight[c] * sum;
      along_x += gain * f.weight[c] * moment;
    }
    const double r = rstd[g];
    std::fill_n(p + g * depth, depth, static_cast<float>(-r * r * along_x / count));
    std::fill_n(q + g * depth, depth, static_cast<float>(-r * along_one / count));
  }

  first = pass.clear(0);
  each_block(op, part, [&](const Block& block) {
    const In x = load(op.dtype, op.x, block, s.block_of(0));
    const In dz = inner_grad(block, x);
    // For 16-bit floats block 1 holds dy, which is dz if there is no SiLU.
    const Out dx = target(op.dtype, d.x, block, s.block_of(op.act ? 1 : 2));
    input_grad_rows(x, dz, pass.spread(kCenter, block, 0), pass.spread(kA, block, 1),
                    pass.spread(kP, block, 2), pass.spread(kQ, block, 3), dx, block.size);
    store(op.dtype, dx, d.x, block);
    if (d.pre == nullptr) return;
    sum_rows({dx.data, dx.stride}, pass.partial(0, block), block.size);
    pass.collect(0, block);
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
  std::vector<float> parts(2 * op.batch * op.channels);
  float *weight = parts.data(), *bias = weight + op.batch * op.channels;
  each_part(op, threads, [&](const Part& part, Scratch& scratch) {
    backward(op, part, dy, mean, rstd, d, weight, bias, scratch);
  });
  sum_batch(op, weight, d.weight);
  sum_batch(op, bias, d.bias);
}

}  // namespace ctm_fast
