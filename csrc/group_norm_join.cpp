// The residual sum and the concatenation of channels, for themselves.

#include "group_norm_join.h"

namespace ctm_fast {

void join_all(const Kernels& kernels, const Join& j, int threads) {
  using Int = std::int64_t;
  constexpr Int kValues = 1 << 14;  // of one piece of work
  const Int length = j.channels_last ? j.pixels : j.channels;
  const Int width = j.channels_last ? j.channels : j.pixels;
  const Int step = std::max<Int>(kValues / width, 1), pieces = (length + step - 1) / step;
  threads = static_cast<int>(std::min<Int>(threads, j.batch * pieces));
#if defined(_OPENMP)
#pragma omp parallel for schedule(static) num_threads(threads) if (threads > 1)
#endif
  for (Int i = 0; i < j.batch * pieces; ++i) {
    const Int begin = i % pieces * step, count = std::min(step, length - begin);
    const Region region = j.channels_last ? Region{i / pieces, 0, j.channels, begin, count}
                                          : Region{i / pieces, begin, count, 0, j.pixels};
    join_region(kernels, j, region);
  }
#if !defined(_OPENMP)
  (void)threads;
#endif
}

}  // namespace ctm_fast
