// What Python calls for the group norm.

#include <limits>
#include <stdexcept>
#include <string>
#include <tuple>

#include "bindings.h"
#include "group_norm.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Address = std::uintptr_t;
using Int = std::int64_t;
using FactorArgs = std::tuple<Address, Int, int>;  // address, stride, dtype

// x, weight, bias, scale, shift, pre, (batch, channels, pixels, groups), dtype, channels_last, act,
// residual_scale
using Args = std::tuple<Address, FactorArgs, FactorArgs, FactorArgs, FactorArgs, FactorArgs,
                        std::tuple<Int, Int, Int, Int>, int, bool, bool, float>;

Dtype dtype(int code) {
  if (code < 0 || code > 2) {
    throw std::invalid_argument("dtype code " + std::to_string(code) + " is not in 0..2");
  }
  return static_cast<Dtype>(code);
}

Factor factor(const FactorArgs& args) {
  return {reinterpret_cast<const void*>(std::get<0>(args)), std::get<1>(args),
          dtype(std::get<2>(args))};
}

template <class T = float>
T* address(Address value) {
  return reinterpret_cast<T*>(value);
}

GroupNorm group_norm(const Args& args, int threads) {
  GroupNorm op;
  op.x = address<void>(std::get<0>(args));
  op.weight = factor(std::get<1>(args));
  op.bias = factor(std::get<2>(args));
  op.scale = factor(std::get<3>(args));
  op.shift = factor(std::get<4>(args));
  op.pre = factor(std::get<5>(args));
  std::tie(op.batch, op.channels, op.pixels, op.groups) = std::get<6>(args);
  op.dtype = dtype(std::get<7>(args));
  op.channels_last = std::get<8>(args);
  op.act = std::get<9>(args);
  op.residual_scale = std::get<10>(args);
  if (op.batch < 1 || op.channels < 1 || op.pixels < 1 || op.groups < 1 ||
      op.channels % op.groups != 0 ||
      op.channels > std::numeric_limits<Int>::max() / 16 / op.batch / op.pixels) {
    throw std::invalid_argument("sizes must be positive and not overflow, groups divide channels");
  }
  if (op.x == nullptr || op.weight.data == nullptr || op.bias.data == nullptr) {
    throw std::invalid_argument("null address");
  }
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  return op;
}

void forward(const Args& args, double eps, Address residual, Address summed, Address y,
             Address mean, Address rstd, int threads) {
  const GroupNorm op = group_norm(args, threads);
  if (!y || !mean || !rstd || (residual && !summed)) throw std::invalid_argument("null address");
  Results results{{}, address<void>(y), address(mean), address(rstd)};
  if (residual) {
    results.join = {op.x,
                    address<void>(residual),
                    nullptr,
                    address<void>(summed),
                    op.batch,
                    op.channels,
                    op.channels,
                    op.pixels,
                    op.dtype,
                    op.channels_last,
                    op.residual_scale};
  }
  const py::gil_scoped_release release;
  group_norm_cpu(op, eps, results, threads);
}

void backward(const Args& args, Address dy, Address dsummed, Address mean, Address rstd, Address dx,
              Address dweight, Address dbias, Address dscale, Address dshift, Address dpre,
              int threads) {
  const GroupNorm op = group_norm(args, threads);
  if (!dy || !mean || !rstd || !dx || !dweight || !dbias) {
    throw std::invalid_argument("null address");
  }
  const Gradients gradients{address<void>(dx), address(dweight), address(dbias),
                            address(dscale),   address(dshift),  address(dpre)};
  const py::gil_scoped_release release;
  group_norm_backward_cpu(op, address<void>(dy), address<void>(dsummed), address(mean),
                          address(rstd), gradients, threads);
}

// x, residual, tail, joined, (batch, channels of x, all channels, pixels), dtype, channels_last
void join(Address x, Address residual, Address tail, Address joined,
          const std::tuple<Int, Int, Int, Int>& sizes, int code, bool channels_last, float scale,
          int threads) {
  const auto [batch, head, channels, pixels] = sizes;
  const Join join{address<void>(x),
                  address<void>(residual),
                  address<void>(tail),
                  address<void>(joined),
                  batch,
                  head,
                  channels,
                  pixels,
                  dtype(code),
                  channels_last,
                  scale};
  if (batch < 1 || head < 1 || channels < head || pixels < 1 ||
      channels > std::numeric_limits<Int>::max() / 16 / batch / pixels) {
    throw std::invalid_argument("sizes must be positive and not overflow, channels hold x's");
  }
  if (!x || !joined || (channels > head && !tail)) throw std::invalid_argument("null address");
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  const py::gil_scoped_release release;
  join_cpu(join, threads);
}

}  // namespace

void bind_group_norm(py::module_& module) {
  module.def("group_norm", &forward);
  module.def("group_norm_backward", &backward);
  module.def("group_norm_use", &group_norm_use);
  module.def("join", &join);
  bind_group_norm_call(module);
}

}  // namespace ctm_fast
