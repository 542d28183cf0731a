// Attention on matrix tiles. 32 queries meet all keys at once: their products stay in L2, so the
// softmax is an ordinary one.

#include "attention.h"

#if defined(CTM_FAST_AMX)

#include <cmath>

#include "tiles.h"

namespace ctm_fast {
namespace {

// Turns 16 rows of 16 words of 32 bits into columns.
void transpose(const Bfloat* from, Int stride, Bfloat* to) {
  __m512i a[16], b[16];
  for (Int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * stride);
  for (Int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (Int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  // a[4 i + j] now holds, in its quarter q, column 4 q + j of rows 4 i to 4 i + 3.
  __m512i* out = reinterpret_cast<__m512i*>(to);
  for (Int j = 0; j < 4; ++j) {
    const __m512i even0 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i even1 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd0 = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xDD);
    const __m512i odd1 = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xDD);
    _mm512_store_si512(out + j, _mm512_shuffle_i32x4(even0, even1, 0x88));
    _mm512_store_si512(out + 4 + j, _mm512_shuffle_i32x4(odd0, odd1, 0x88));
    _mm512_store_si512(out + 8 + j, _mm512_shuffle_i32x4(even0, even1, 0xDD));
    _mm512_store_si512(out + 12 + j, _mm512_shuffle_i32x4(odd0, odd1, 0xDD));
  }
}

// Two rows of 16 numbers, number by number.
void interleave(const Bfloat* first, const Bfloat* second, Bfloat* to) {
  const __m512i low = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)first));
  const __m512i high = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)second));
  _mm512_store_si512(to, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
}

// 2^x for x <= 0, relative error below 3e-6; NaN stays.
CTM_FAST_FLAT __m512 power_of_two(__m512 x) {
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 n = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT);
  const __m512 f = _mm512_sub_ps(x, n);
  __m512 p = _mm512_set1_ps(1.3333558e-3f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.6181291e-3f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5504109e-2f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4022651e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9314718e-1f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(p, n);
}

// What a thread needs for one head of one image, and the queries it works on.
class Head {
 public:
  explicit Head(const Attention& op)
      : op_(op),
        keys_(op.pixels / kWide),
        parts_(op.width / kWide),
        pixel_(3 * op.heads * op.width),
        pitch_(op.pixels + kWide) {
    const Int panels = keys_ * parts_ * kWeights;
    Bfloat* memory = memory_.of(2 * (2 * panels + kWide * pitch_) + 4 * keys_ * kSums);
    key_panels_ = memory;
    value_panels_ = key_panels_ + panels;
    weights_ = value_panels_ + panels;
    scores_ = reinterpret_cast<float*>(weights_ + kWide * pitch_);
  }

  void run(Int head, Int block) {
    if (head != head_) pack(head);
    const Bfloat* q = start_ + block * kWide * pixel_;
    for (Int key = 0; key < keys_; ++key) {
      clear_sums();
      for (Int part = 0; part < parts_; ++part)
        multiply(q + part * kWide, q + part * kWide + kTile * pixel_, 2 * pixel_,
                 key_panels_ + (key * parts_ + part) * kWeights);
      store_sums(scores_ + key * kSums);
    }
    softmax();
    settle(weights_);
    const Int row = op_.heads * op_.width;
    const Int pixel = head / op_.heads * op_.pixels + block * kWide;
    Bfloat* out = op_.out + pixel * row + head % op_.heads * op_.width;
    for (Int part = 0; part < parts_; ++part, out += kWide) {
      clear_sums();
      for (Int key = 0; key < keys_; ++key)
        multiply(weights_ + key * kWide, weights_ + key * kWide + kTile * pitch_, 2 * pitch_,
                 value_panels_ + (part * keys_ + key) * kWeights);
      store_sums(scores_);
      for (Int query = 0; query < kWide; ++query) {
        const float* sums = row_of(scores_, query);
        const __m512 factor = _mm512_set1_ps(shares_[query]);
        const __m512 low = _mm512_mul_ps(_mm512_load_ps(sums), factor);
        const __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + 256), factor);
        _mm512_storeu_si512(out + query * row, (__m512i)_mm512_cvtne2ps_pbh(high, low));
      }
    }
  }

 private:
  static const float* row_of(const float* sums, Int query) {
    return sums + query / kTile * 512 + query % kTile * kTile;
  }

  void pack(Int head) {
    head_ = head;
    start_ = op_.qkv + head / op_.heads * op_.pixels * pixel_ + head % op_.heads * op_.width;
    const Bfloat *k = start_ + pixel_ / 3, *v = start_ + pixel_ / 3 * 2;
    for (Int key = 0; key < keys_; ++key, k += kWide * pixel_, v += kWide * pixel_) {
      for (Int part = 0; part < parts_; ++part) {
        Bfloat* panel = key_panels_ + (key * parts_ + part) * kWeights;
        for (Int half = 0; half < 2; ++half)
          transpose(k + half * kTile * pixel_ + part * kWide, pixel_, panel + half * kWeights / 2);
        panel = value_panels_ + (part * keys_ + key) * kWeights;
        for (Int half = 0; half < 2; ++half)
          for (Int pair = 0; pair < kTile; ++pair) {
            const Bfloat* row = v + 2 * pair * pixel_ + part * kWide + half * kTile;
            interleave(row, row + pixel_, panel + half * kWeights / 2 + pair * kWide);
          }
      }
    }
    settle(key_panels_);
  }

  // The weights of all queries, up to their sums. Key by key, since a query's products with one key
  // and the next lie a page apart.
  void softmax() {
    const float scale = 1.44269504f / std::sqrt(static_cast<float>(op_.width));
    const __m512 factor = _mm512_set1_ps(scale);
    __m512 shift[kWide], sum[kWide];
    for (Int query = 0; query < kWide; ++query) shift[query] = _mm512_set1_ps(-INFINITY);
    for (Int key = 0; key < keys_; ++key)
      for (Int query = 0; query < kWide; ++query) {
        const float* from = row_of(scores_ + key * kSums, query);
        const __m512 most = _mm512_max_ps(_mm512_load_ps(from), _mm512_load_ps(from + 256));
        shift[query] = _mm512_max_ps(shift[query], most);
      }
    for (Int query = 0; query < kWide; ++query) {
      shift[query] = _mm512_set1_ps(-scale * _mm512_reduce_max_ps(shift[query]));
      sum[query] = _mm512_setzero_ps();
    }
    for (Int key = 0; key < keys_; ++key)
      for (Int query = 0; query < kWide; ++query) {
        const float* from = row_of(scores_ + key * kSums, query);
        const __m512 low = _mm512_fmadd_ps(_mm512_load_ps(from), factor, shift[query]);
        const __m512 high = _mm512_fmadd_ps(_mm512_load_ps(from + 256), factor, shift[query]);
        const __m512 left = power_of_two(low), right = power_of_two(high);
        sum[query] = _mm512_add_ps(sum[query], _mm512_add_ps(left, right));
        _mm512_store_si512(weights_ + query * pitch_ + key * kWide,
                           (__m512i)_mm512_cvtne2ps_pbh(right, left));
      }
    for (Int query = 0; query < kWide; ++query)
      shares_[query] = 1.0f / _mm512_reduce_add_ps(sum[query]);
  }

  const Attention& op_;
  Int keys_, parts_, pixel_, pitch_, head_ = -1;
  const Bfloat* start_ = nullptr;
  Aligned memory_;
  Bfloat *key_panels_, *value_panels_, *weights_;
  float* scores_;
  float shares_[kWide];
};

}  // namespace

bool attention_fits(const Attention& op) { return op.pixels % kWide == 0 && op.width % kWide == 0; }

void attention_cpu(const Attention& op, int threads) {
  const Int blocks = op.pixels / kWide, tasks = op.batch * op.heads * blocks;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    configure();
    Head head(op);
#pragma omp for schedule(static)
    for (Int task = 0; task < tasks; ++task) head.run(task / blocks, task % blocks);
    _tile_release();
  }
}

}  // namespace ctm_fast

#else

namespace ctm_fast {

bool attention_fits(const Attention&) { return false; }

void attention_cpu(const Attention&, int) {}

}  // namespace ctm_fast

#endif
