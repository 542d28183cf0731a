// `ctm_fast._native`: what Python calls. It sees addresses and sizes, never a tensor.

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <limits>
#include <stdexcept>
#include <string>

#include "bindings.h"
#include "heun.h"
#include "jump.h"

namespace py = pybind11;

namespace ctm_fast {
namespace {

using Address = std::uintptr_t;

Dtype dtype(int code) {
  if (code < 0 || code > 3) {
    throw std::invalid_argument("dtype code " + std::to_string(code) + " is not in 0..3");
  }
  return static_cast<Dtype>(code);
}

const void* input(Address address) { return reinterpret_cast<const void*>(address); }

void* output(Address address) { return reinterpret_cast<void*>(address); }

void check_dtypes(Dtype state, std::initializer_list<Dtype> others, bool cuda) {
  const bool wide = state == Dtype::float64;
  if (state != Dtype::float32 && (!wide || cuda)) {
    throw std::invalid_argument("the state must be float32, or float64 on the CPU");
  }
  for (Dtype other : others) {
    if (!wide && other == Dtype::float64) {
      throw std::invalid_argument("float64 images do not go with a float32 state");
    }
  }
}

void check_sizes(std::int64_t batch, std::int64_t size) {
  if (batch < 0 || size < 0 ||
      (size > 0 && batch > std::numeric_limits<std::int64_t>::max() / 8 / size)) {
    throw std::invalid_argument("batch and size must not be negative, nor overflow");
  }
}

void check_addresses(std::initializer_list<const void*> addresses) {
  for (const void* address : addresses) {
    if (address == nullptr) throw std::invalid_argument("null address");
  }
}

int check_threads(std::int64_t threads) {
  if (threads < 1) throw std::invalid_argument("at least one thread is needed");
  return static_cast<int>(threads);
}

// `device` is -1 for the CPU; `lane` is its number of threads, or the CUDA stream.
void heun_step(Address x, Address f1, Address f2, Address a, Address b, Address c, Address c_in,
               Address active, Address next, Address scaled, std::int64_t batch, std::int64_t size,
               int state, int network, int out, int device, std::int64_t lane) {
  const HeunStep step{
      input(x),     input(f1),      input(f2),   input(a),
      input(b),     input(c),       input(c_in), static_cast<const bool*>(input(active)),
      output(next), output(scaled), batch,       size,
      dtype(state), dtype(network), dtype(out)};
  check_dtypes(step.state, {step.network, step.out}, device >= 0);
  check_sizes(batch, size);
  if (batch == 0 || size == 0) return;
  check_addresses({step.x, step.f1, step.b, step.c_in, step.scaled});
  if (step.f2 != nullptr) check_addresses({step.c, step.next});
  const int threads = device < 0 ? check_threads(lane) : 0;
  const py::gil_scoped_release release;
  if (device < 0) {
    heun_cpu(step, threads);
    return;
  }
#if defined(CTM_FAST_CUDA_ARCHITECTURES)
  heun_cuda(step, device, reinterpret_cast<void*>(lane));
#else
  throw std::invalid_argument("the CUDA part was not built");
#endif
}

Jump jump_of(Address p, Address q, std::int64_t batch, std::int64_t size, int state, int network) {
  const Jump jump{input(p), input(q), batch, size, dtype(state), dtype(network)};
  check_dtypes(jump.state, {jump.network}, false);
  check_sizes(batch, size);
  check_addresses({jump.p, jump.q});
  return jump;
}

void jump(Address x, Address f, Address p, Address q, Address result, std::int64_t batch,
          std::int64_t size, int state, int network, int threads) {
  const Jump jump = jump_of(p, q, batch, size, state, network);
  check_addresses({input(x), input(f), input(result)});
  check_threads(threads);
  const py::gil_scoped_release release;
  jump_cpu(jump, input(x), input(f), output(result), threads);
}

void jump_backward(Address g, Address p, Address q, Address dx, Address df, std::int64_t batch,
                   std::int64_t size, int state, int network, int threads) {
  const Jump jump = jump_of(p, q, batch, size, state, network);
  check_addresses({input(g)});
  check_threads(threads);
  const py::gil_scoped_release release;
  jump_backward_cpu(jump, input(g), output(dx), output(df), threads);
}

std::string cpu_target() {
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
  if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
#endif
  return "baseline code";
}

}  // namespace

PYBIND11_MODULE(_native, module) {
  module.doc() = "Compiled kernels of ctm_fast.";
  module.attr("interface") = 5;
  module.attr("compiler") = CTM_FAST_COMPILER;
  module.attr("cpu_target") = cpu_target();
#if defined(_OPENMP)
  module.attr("openmp") = true;
#else
  module.attr("openmp") = false;
#endif
#if defined(CTM_FAST_CUDA_ARCHITECTURES)
  module.attr("cuda_architectures") = CTM_FAST_CUDA_ARCHITECTURES;
  module.attr("cuda_version") = CTM_FAST_CUDA_VERSION;
#else
  module.attr("cuda_architectures") = "";
  module.attr("cuda_version") = "";
#endif
  module.def("heun_step", &heun_step);
  module.def("jump", &jump);
  module.def("jump_backward", &jump_backward);
  bind_tiles(module);
  bind_group_norm(module);
  bind_normal(module);
  bind_optimizer(module);
}

}  // namespace ctm_fast
