// What Python calls on matrix tiles: convolutions and attention.

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "attention.h"
#include "bindings.h"
#include "convolution.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Address = std::uintptr_t;
using Int = std::int64_t;

Convolution sized(Int batch, Int height, Int width, Int channels, Int outputs, int side) {
  Int most = std::numeric_limits<Int>::max() / 32;
  for (const Int size : {height, width, std::max(channels, outputs), batch}) {
    if (size < 1 || size > most)
      throw std::invalid_argument("sizes must be positive and not overflow");
    most /= size;
  }
  return {nullptr, nullptr, nullptr, nullptr, batch, height, width, channels, outputs, side};
}

bool fits(Int batch, Int height, Int width, Int channels, Int outputs, int side) {
  return convolution_ready() &&
         convolution_fits(sized(batch, height, width, channels, outputs, side));
}

void convolution(Address x, Address weight, Address bias, Address y, Int batch, Int height,
                 Int width, Int channels, Int outputs, int side, int threads) {
  Convolution op = sized(batch, height, width, channels, outputs, side);
  if (!convolution_ready() || !convolution_fits(op))
    throw std::invalid_argument("this processor, or this size, has no tiles");
  if (x == 0 || weight == 0 || y == 0) throw std::invalid_argument("null address");
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  op.x = reinterpret_cast<const std::uint16_t*>(x);
  op.weight = reinterpret_cast<const std::uint16_t*>(weight);
  op.bias = reinterpret_cast<const std::uint16_t*>(bias);
  op.y = reinterpret_cast<std::uint16_t*>(y);
  const py::gil_scoped_release release;
  convolution_cpu(op, threads);
}

Attention sized(Int batch, Int pixels, Int heads, Int width) {
  Int most = std::numeric_limits<Int>::max() / 128;
  for (const Int size : {batch, pixels, heads, width}) {
    if (size < 1 || size > most)
      throw std::invalid_argument("sizes must be positive and not overflow");
    most /= size;
  }
  return {nullptr, nullptr, batch, pixels, heads, width};
}

void attention(Address qkv, Address out, Int batch, Int pixels, Int heads, Int width, int threads) {
  Attention op = sized(batch, pixels, heads, width);
  if (!convolution_ready() || !attention_fits(op))
    throw std::invalid_argument("this processor, or this size, has no tiles");
  if (qkv == 0 || out == 0) throw std::invalid_argument("null address");
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  op.qkv = reinterpret_cast<const std::uint16_t*>(qkv);
  op.out = reinterpret_cast<std::uint16_t*>(out);
  const py::gil_scoped_release release;
  attention_cpu(op, threads);
}

}  // namespace

void bind_tiles(py::module_& module) {
  module.attr("tiles") = convolution_ready();
  module.def("attention", &attention);
  module.def("convolution", &convolution);
  module.def("convolution_fits", &fits);
}

}  // namespace ctm_fast
