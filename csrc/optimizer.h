// One optimizer step of many weights at once: moments, weights and averages
// (kernels/optimizer_step.py).
#pragma once

#include <cstdint>

namespace ctm_fast {

// Tables hold addresses of dense float arrays, one per weight; nothing is owned.
struct OptimizerStep {
  const std::int64_t* sizes;  // (count,) elements of each weight
  float* const* tensors;      // (3 + averages, count): weights, first and second moments, averages
  const float* const* grads;  // (count,); nullptr: the weight and its moments stay
  // (3, count): the update is factors[0] m / (factors[1] sqrt(v) + factors[2])
  const double* factors;
  const double* follow;  // (averages,) share of the new weight in each average, in (0, 1]
  std::int64_t count, averages;
  double new_first, new_second;  // shares of the new gradient in the moments, in (0, 1]
  double gain;                   // factor of every gradient
};

void optimizer_step_cpu(const OptimizerStep& step, int threads);

}  // namespace ctm_fast
