// The residual sum and the concatenation of channels that go before a group norm.
#pragma once

#include <algorithm>
#include <cstdint>

#include "group_norm.h"
#include "group_norm_rows.h"

namespace ctm_fast {

inline std::int64_t bytes_of(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }

inline std::int64_t join_bytes(const Join& join) {
  return join.batch * join.channels * join.pixels * bytes_of(join.dtype);
}

// `channels` of joined from `channel` on, and pixels likewise, of one sample.
struct Region {
  std::int64_t sample, channel, channels, pixel, pixels;
};

// Writes a region of joined.
inline void join_region(const Kernels& kernels, const Join& j, const Region& r) {
  using Int = std::int64_t;
  const Int bytes = bytes_of(j.dtype), last = r.channel + r.channels;
  // Channels [begin, end) of joined, from images of `channels` that begin at joined's `first`.
  const auto piece = [&](const void* images, const void* residual, Int first, Int channels,
                         Int begin, Int end) {
    if (begin >= end) return;
    const auto place = [&](Int all, Int channel) {
      const Int offset = j.channels_last ? (r.sample * j.pixels + r.pixel) * all + channel
                                         : (r.sample * all + channel) * j.pixels + r.pixel;
      return offset * bytes;
    };
    const Int count = end - begin, from = place(channels, begin - first);
    const Tile tile{j.channels_last ? r.pixels : count,
                    j.channels_last ? count : r.pixels,
                    j.channels_last ? channels : j.pixels,
                    j.dtype,
                    !j.channels_last,
                    false};
    kernels.join(tile, static_cast<const char*>(images) + from,
                 residual == nullptr ? nullptr : static_cast<const char*>(residual) + from, j.scale,
                 static_cast<char*>(j.joined) + place(j.channels, begin),
                 j.channels_last ? j.channels : j.pixels);
  };
  piece(j.x, j.residual, 0, j.head, r.channel, std::min(last, j.head));
  piece(j.tail, nullptr, j.head, j.channels - j.head, std::max(r.channel, j.head), last);
}

// Writes all of joined.
void join_all(const Kernels& kernels, const Join& join, int threads);

}  // namespace ctm_fast
