// Convolutions of bfloat16 images on the CPU's matrix tiles (AMX).
#pragma once

#include <cstdint>

namespace ctm_fast {

// Stride 1; 1x1, or 3x3 with a border of zeros. Images lie as (batch, height, width, channels).
struct Convolution {
  const std::uint16_t* x;
  const std::uint16_t* weight;  // in panels of 32 outputs, see `pack` in kernels/convolution.py
  const std::uint16_t* bias;    // (outputs), or null
  std::uint16_t* y;
  std::int64_t batch, height, width;
  std::int64_t channels, outputs;  // both divide by 32
  int side;                        // of the kernel, 1 or 3
};

// Whether this processor has tiles and this process may use them.
bool convolution_ready();

// Whether images of this size can be cut into tiles.
bool convolution_fits(const Convolution& op);

void convolution_cpu(const Convolution& op, int threads);

// The 3x3 kernels of it.
void convolution_wide_cpu(const Convolution& op, int threads);

}  // namespace ctm_fast
