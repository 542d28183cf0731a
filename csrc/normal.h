// Seeded Gaussian noise; the definition is kernels/normal.py.
#pragma once

#include <cstdint>

namespace ctm_fast {

// `batch` rows of `size` float32 numbers; row i depends on seeds[i] and `step` alone.
struct Normal {
  const std::int64_t* seeds;
  std::uint64_t step;
  float* noise;
  std::int64_t batch;
  std::int64_t size;
};

void normal_cpu(const Normal& normal, int threads);

}  // namespace ctm_fast
