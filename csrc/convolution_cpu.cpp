// Convolutions on matrix tiles: which can run, and those of 1x1.

#include "convolution.h"

#if defined(CTM_FAST_AMX)

#include <sys/syscall.h>
#include <unistd.h>

#include "tiles.h"

namespace ctm_fast {

namespace {

constexpr Int kMostPixels = 2048;  // of a 1x1 kernel; beyond, oneDNN is as fast or faster

bool ask_for_tiles() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("amx-bf16") || !__builtin_cpu_supports("avx512bf16")) return false;
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
}

}  // namespace

bool convolution_ready() {
  static const bool ready = ask_for_tiles();
  return ready;
}

bool convolution_fits(const Convolution& op) {
  if (op.channels % kWide != 0 || op.outputs % kWide != 0) return false;
  if (op.side == 1) {
    const Int pixels = op.batch * op.height * op.width;
    return pixels % kWide == 0 && pixels <= kMostPixels;
  }
  return op.side == 3 && (op.width % kTile == 0 || op.width == 8 || op.width == 4);
}

namespace {

// Pixels of a pair stay in L1 while the weights of all outputs pass by.
void convolution_point_cpu(const Convolution& op, int threads) {
  const Int pairs = op.batch * op.height * op.width / kWide, blocks = op.channels / kWide;
  const Int panels = op.outputs / kWide;
  // With few pixels every thread takes part of the outputs, so that nobody reads all weights.
  const Int groups = pairs < 4 * threads && panels >= threads ? threads : 1;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    configure();
    alignas(kLine) float sums[kSums];
#pragma omp for schedule(static)
    for (Int task = 0; task < groups * pairs; ++task) {
      const Int group = task / pairs, pair = task % pairs;
      const Bfloat* x = op.x + pair * kWide * op.channels;
      for (Int panel = group * panels / groups; panel < (group + 1) * panels / groups; ++panel) {
        const Bfloat* weight = op.weight + panel * blocks * kWeights;
        clear_sums();
        for (Int block = 0; block < blocks; ++block) {
          const Bfloat* first = x + block * kWide;
          multiply(first, first + kTile * op.channels, 2 * op.channels, weight + block * kWeights);
        }
        store_sums(sums);
        const Bfloat* bias = op.bias == nullptr ? nullptr : op.bias + panel * kWide;
        write(sums, kWide, bias, op.y + pair * kWide * op.outputs + panel * kWide, op.outputs);
      }
    }
    _tile_release();
  }
}

}  // namespace

void convolution_cpu(const Convolution& op, int threads) {
  if (op.side == 1)
    convolution_point_cpu(op, threads);
  else
    convolution_wide_cpu(op, threads);
}

}  // namespace ctm_fast

#else

namespace ctm_fast {

bool convolution_ready() { return false; }

bool convolution_fits(const Convolution&) { return false; }

void convolution_cpu(const Convolution&, int) {}

}  // namespace ctm_fast

#endif
