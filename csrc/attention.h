// Self-attention of bfloat16 images on the CPU's matrix tiles (AMX).
#pragma once

#include <cstdint>

namespace ctm_fast {

struct Attention {
  const std::uint16_t* qkv;                  // (batch, pixels, {q, k, v}, heads, width)
  std::uint16_t* out;                        // (batch, pixels, heads, width)
  std::int64_t batch, pixels, heads, width;  // pixels and width divide by 32
};

bool attention_fits(const Attention& op);

void attention_cpu(const Attention& op, int threads);

}  // namespace ctm_fast
