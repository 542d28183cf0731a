// The jump P x + Q F and its gradient; the definition is kernels/jump.py.
#pragma once

#include <cstdint>

#include "heun.h"  // Dtype

namespace ctm_fast {

// Every image tensor is `batch` dense slabs of `size` elements in one order. x, its gradient and
// the result are in `state`, like the factors, (batch,); F and its gradient are in `network`.
struct Jump {
  const void* p;
  const void* q;
  std::int64_t batch;
  std::int64_t size;
  Dtype state, network;
};

void jump_cpu(const Jump& jump, const void* x, const void* f, void* result, int threads);

// dx = P g and df = Q g; nullptr where not wanted.
void jump_backward_cpu(const Jump& jump, const void* g, void* dx, void* df, int threads);

}  // namespace ctm_fast
