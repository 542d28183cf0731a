// Seeded Gaussian noise on the CPU: Philox4x32-10 and Box-Muller, both in vector registers.

#include "normal.h"

#include <cmath>

#include "elementwise.h"
#include "simd.h"

namespace ctm_fast {

namespace {

constexpr std::int64_t kCounters = kBlock / 4;  // of one block; each makes four numbers

struct Words {
  alignas(64) std::uint32_t of[4][kCounters];
};

CTM_FAST_FLAT std::uint32_t high(std::uint64_t product) {
  return static_cast<std::uint32_t>(product >> 32);
}

// sqrt(-2 log((v + 1/2) / 2^32)), accurate at both ends.
CTM_FAST_FLAT float radius(std::uint32_t v) {
  constexpr std::uint32_t kRoot = 0x3F3504F3u;  // bits of sqrt(1/2)
  const float f = static_cast<float>(v) + 0.5f;
  const std::int32_t bits = static_cast<std::int32_t>(bits_of(f) - kRoot);
  const std::int32_t n = bits >> 23;
  const float m = float_of(static_cast<std::uint32_t>(bits & 0x7FFFFF) + kRoot);
  // Above sqrt(1/2), the distance from 1 has to come from the integer: v rounds to a float.
  const float t = (static_cast<float>(~v) + 0.5f) * 0x1p-32f;
  const bool near = t < 0.2928932f;
  const float s = (near ? -t : m - 1.0f) / (near ? 2.0f - t : m + 1.0f);
  const float z = s * s;
  // atanh(s) / s - 1 over s^2, minimax for |s| < 0.172.
  const float p = (0x1.31e678p-3f * z + 0x1.995e9cp-3f) * z + 0x1.55557ap-2f;
  const float scale = static_cast<float>(near ? 0 : 32 - n) * 0.693147180559945f;
  return std::sqrt(2.0f * (scale - 2.0f * (s + s * (z * p))));
}

// Box-Muller's pair for a = 2 pi w / 2^32: the quadrant and the rest of it are integers.
CTM_FAST_FLAT void pair(std::uint32_t v, std::uint32_t w, float& first, float& second) {
  const std::uint32_t quadrant = (w + 0x20000000u) >> 30;
  const float a =
      static_cast<float>(static_cast<std::int32_t>(w - (quadrant << 30))) * 1.4629180792671596e-09f;
  const float z = a * a;
  const float sine =
      a + a * z * ((-1.9515295891e-4f * z + 8.3321608736e-3f) * z - 1.6666654611e-1f);
  const float quartic =
      (2.443315711809948e-5f * z - 1.388731625493765e-3f) * z + 4.166664568298827e-2f;
  const float cosine = 1.0f + z * (z * quartic - 0.5f);
  const bool odd = (quadrant & 1u) != 0;
  const float r = radius(v);
  // The sign bit of -cos or -sin in its half of the circle.
  const std::uint32_t flip_first = ((quadrant + 1u) & 2u) << 30, flip_second = (quadrant & 2u)
                                                                               << 30;
  first = r * float_of(bits_of(odd ? sine : cosine) ^ flip_first);
  second = r * float_of(bits_of(odd ? cosine : sine) ^ flip_second);
}

CTM_FAST_CLONES void philox(std::uint64_t seed, std::uint64_t step, std::uint64_t begin,
                            Words* __restrict__ words) {
  const std::uint32_t c1 = high(begin), step0 = static_cast<std::uint32_t>(step),
                      step1 = high(step);
  for (std::int64_t i = 0; i < kCounters; ++i) {
    std::uint32_t a = static_cast<std::uint32_t>(begin) + static_cast<std::uint32_t>(i), b = c1;
    std::uint32_t c = step0, d = step1;
    std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = high(seed);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t p = std::uint64_t{0xD2511F53u} * a, q = std::uint64_t{0xCD9E8D57u} * c;
      a = high(q) ^ b ^ k0;
      b = static_cast<std::uint32_t>(q);
      c = high(p) ^ d ^ k1;
      d = static_cast<std::uint32_t>(p);
      k0 += 0x9E3779B9u;
      k1 += 0xBB67AE85u;
    }
    words->of[0][i] = a;
    words->of[1][i] = b;
    words->of[2][i] = c;
    words->of[3][i] = d;
  }
}

CTM_FAST_CLONES void box_muller(const Words* __restrict__ words, float* __restrict__ noise) {
  for (std::int64_t i = 0; i < kCounters; ++i) {
    pair(words->of[0][i], words->of[1][i], noise[4 * i], noise[4 * i + 1]);
    pair(words->of[2][i], words->of[3][i], noise[4 * i + 2], noise[4 * i + 3]);
  }
}

}  // namespace

void normal_cpu(const Normal& normal, int threads) {
  each_block<float>(normal.batch, normal.size, threads,
                    [&](std::int64_t sample, std::int64_t offset, std::int64_t count) {
                      Words words;
                      alignas(64) float block[kBlock];
                      const auto seed = static_cast<std::uint64_t>(normal.seeds[sample]);
                      const std::int64_t begin = offset - sample * normal.size;
                      philox(seed, normal.step, static_cast<std::uint64_t>(begin / 4), &words);
                      // Whole blocks only: what a number is must not depend on its row's size.
                      box_muller(&words, block);
                      std::memcpy(normal.noise + offset, block, count * sizeof(float));
                    });
}

}  // namespace ctm_fast
