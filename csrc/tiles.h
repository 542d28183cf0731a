// What convolutions on matrix tiles share: pairs of tiles, products, results. Include it only where
// CTM_FAST_AMX is defined.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <memory>
#include <new>

#include "simd.h"

namespace ctm_fast {
namespace {

using Int = std::int64_t;
using Bfloat = std::uint16_t;

constexpr Int kWide = 32;                // channels and outputs of a block, pixels of a pair
constexpr Int kTile = 16;                // rows of a tile
constexpr Int kWeights = kWide * kWide;  // of one tap of a block
constexpr Int kSums = kWide * kWide;     // of a pair of pixel tiles
constexpr Int kLine = 64;                // bytes of a row of a tile, and of the cache

Int up(Int a, Int b) { return (a + b - 1) / b; }

// Compilers do not know that tile instructions read all this memory.
void settle(const void* memory) { asm volatile("" : : "r"(memory) : "memory"); }

void configure() {
  struct {
    std::uint8_t palette = 1, start = 0, reserved[14] = {};
    std::uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  } layout;
  settle(&layout);
  _tile_loadconfig(&layout);
}

// Memory of a thread that is kept while it is large enough.
class Aligned {
 public:
  Bfloat* of(Int bytes) {
    if (bytes > size_) {
      memory_.reset(static_cast<Bfloat*>(::operator new(bytes, std::align_val_t(kLine))));
      size_ = bytes;
    }
    return memory_.get();
  }

 private:
  struct Free {
    void operator()(Bfloat* memory) const { ::operator delete(memory, std::align_val_t(kLine)); }
  };
  std::unique_ptr<Bfloat, Free> memory_;
  Int size_ = 0;
};

CTM_FAST_FLAT void clear_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

CTM_FAST_FLAT void load_sums(const float* sums) {
  _tile_loadd(0, sums, 64);
  _tile_loadd(1, sums + 256, 64);
  _tile_loadd(2, sums + 512, 64);
  _tile_loadd(3, sums + 768, 64);
}

CTM_FAST_FLAT void store_sums(float* sums) {
  _tile_stored(0, sums, 64);
  _tile_stored(1, sums + 256, 64);
  _tile_stored(2, sums + 512, 64);
  _tile_stored(3, sums + 768, 64);
}

// sums += two tiles of pixels, `stride` bytes apart, times the weights of 32 outputs.
CTM_FAST_FLAT void multiply(const Bfloat* first, const Bfloat* second, Int stride,
                            const Bfloat* weight) {
  _tile_loadd(6, weight, 64);
  _tile_loadd(4, first, stride);
  _tile_dpbf16ps(0, 4, 6);
  _tile_loadd(7, weight + kWeights / 2, 64);
  _tile_dpbf16ps(1, 4, 7);
  _tile_loadd(5, second, stride);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

// Sums of `pixels` pixels plus the bias, rounded; y's pixels lie `outputs` apart.
CTM_FAST_FLAT void write(const float* sums, Int pixels, const Bfloat* bias, Bfloat* y,
                         Int outputs) {
  alignas(kLine) float added[kWide] = {};
  for (Int i = 0; bias != nullptr && i < kWide; ++i) added[i] = widen_bfloat(bias[i]);
  const __m512 low = _mm512_load_ps(added), high = _mm512_load_ps(added + kTile);
  for (Int i = 0; i < pixels; ++i) {
    const float* row = sums + i / kTile * 512 + i % kTile * kTile;
    const __m512 left = _mm512_add_ps(_mm512_load_ps(row), low);
    const __m512 right = _mm512_add_ps(_mm512_load_ps(row + 256), high);
    _mm512_storeu_si512(y + i * outputs, (__m512i)_mm512_cvtne2ps_pbh(right, left));
  }
}

}  // namespace
}  // namespace ctm_fast
